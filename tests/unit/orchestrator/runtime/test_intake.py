"""Plain records become runs: once each, or dead letters, or they wait."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, virtual

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory.bus import Streams
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import FlowId, Partition, Position, partition_of
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_broker.protocol.records import Topic
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.runtime import intake
from stepmesh_orchestrator.runtime.admission import unknown_flow

SCHEMA = {**ONE_STEP, "name": "strict", "schemas": {"properties": {"input": {"type": "integer"}}}}


def topic(lab: Lab) -> Streams:
    """Where a producer writes."""
    return lab.bus.streams(lab.namespace)


async def runs(lab: Lab) -> list[api.RunSummary]:
    """All there are, oldest first."""
    await asyncio.sleep(1)
    return (await lab.ask(api.ListRuns(limit=1_000), api.Runs)).runs[::-1]


@virtual
async def test_records_start_runs_on_the_partitions_of_their_keys() -> None:
    lab = await Lab(partitions=4).start()
    flow = await lab.flow(ONE_STEP)
    for number in range(40):
        topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": [number, number], "tags": {"n": str(number)}}), f"key-{number}")
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [None]}))
    found = await runs(lab)
    assert len(found) == 41
    homes = {run.tags["n"]: run.partition for run in found if run.tags}
    assert homes == {str(number): partition_of(f"key-{number}", 4) for number in range(40)}
    assert len({run.partition for run in found}) == 4
    while tasks := await lab.take(timeout_s=1):
        await lab.finish(*tasks)
    assert {run.status for run in await runs(lab)} == {"completed"}
    assert not topic(lab).plain[Topic.SUBMIT]._entries, "all are acknowledged"
    await lab.stop()


@virtual
async def test_the_same_key_starts_one_run_also_when_everything_else_forgot_it() -> None:
    lab = await Lab(remember_ended=0).start()
    value = js({"flow": ONE_STEP, "input": [1]})
    for _ in range(3):
        topic(lab).write(Topic.SUBMIT, value, "order-1")
    (first,) = await runs(lab)
    await lab.finish(*await lab.take())
    assert [run.status for run in await runs(lab)] == ["completed"]
    await lab.submit(ONE_STEP, 2)  # a turn that forgets what ended
    assert not lab.shard.session.state.keys
    topic(lab).write(Topic.SUBMIT, value, "order-1")
    await lab.restart()
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": ["other"]}), "order-1")
    assert len([run for run in await runs(lab) if run.run != first.run]) == 1, "only the one that was submitted by hand"
    await lab.stop()


@virtual
async def test_a_record_that_is_read_again_starts_nothing_again() -> None:
    lab = await Lab().start()
    record = topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [1]}))
    (run,) = await runs(lab)
    again = topic(lab).plain[Topic.SUBMIT]
    again._entries.append(record)
    again._reader.hear(record)  # type: ignore[union-attr]
    assert [one.run for one in await runs(lab)] == [run.run]
    await lab.stop()


@virtual
async def test_bad_records_are_dead_letters_with_the_reason_and_the_others_go_on() -> None:
    lab = await Lab(max_items=2).start()
    flow = await lab.flow(SCHEMA)
    bad = {
        "SM-3050": (b"nonsense", ""),
        "SM-3052": (js({"flowId": flow, "input": [1]}), "k" * 201),
        "SM-5004": (js({"flowId": "0" * 64, "input": [1]}), ""),
        "SM-5130": (js({"flow": {"steps": [], "output": {"$step": "nowhere"}}, "input": [1]}), ""),
        "SM-5001 INVALID_INPUT": (js({"flowId": flow, "input": ["no integer"]}), "typed"),
        "SM-5002": (js({"flowId": flow, "input": [1, 2, 3]}), ""),
    }
    for value, key in bad.values():
        topic(lab).write(Topic.SUBMIT, value, key)
    topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": [1]}), headers={"stepmesh-contract": "9"})
    topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": [1, 2]}), "typed")
    (run,) = await runs(lab)
    assert run.total == 2, "a key whose first record was bad is still free"
    letters = await lab.client.parked()
    assert [letter.data for letter in letters[:-1]] == [value for value, _ in bad.values()]
    for letter, code in zip(letters, [*bad, "SM-3051"], strict=True):
        assert letter.reason.startswith(code), letter.reason
        assert letter.pool == "submit"
    assert "(record 0@5, key 'typed')" in letters[4].reason
    await lab.stop()


@virtual
async def test_a_submission_above_the_limit_of_messages_is_a_dead_letter() -> None:
    lab = Lab()
    lab.bus.max_message_bytes = 4_000
    await lab.start()
    flow = await lab.flow(ONE_STEP)
    value = js({"flowId": flow, "input": ["x" * 5_000]})
    topic(lab).write(Topic.SUBMIT, value, "large")
    topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": ["x" * 3_500]}), "small")
    (run,) = await runs(lab)
    (letter,) = await lab.client.parked()
    assert letter.reason.startswith("SM-3002")
    assert letter.data == value[:4_000], "the beginning of what is too large even for a letter"
    assert run.run
    await lab.stop()


@virtual
async def test_a_key_whose_first_record_is_too_large_is_that_of_the_next_one() -> None:
    lab = Lab()
    lab.bus.max_message_bytes = 4_000
    await lab.start()
    flow = await lab.flow(ONE_STEP)
    for length in (5_000, 3_500):
        topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": ["x" * length]}), "one")
    assert len(await runs(lab)) == 1, "read at once or one after the other, the second one starts"
    assert [letter.reason[:7] for letter in await lab.client.parked()] == ["SM-3002"]
    await lab.stop()


@virtual
async def test_while_broker_or_store_are_away_records_wait() -> None:
    lab = await Lab().start()
    away = True
    post, get_run = lab.broker.post, lab.store.get_run

    async def refusing_post(partition: Partition, data: bytes, message_id: str = "") -> Position:
        if away:
            raise BrokerUnavailable("away")
        return await post(partition, data, message_id)

    async def refusing_get(run: Any) -> Any:
        if away:
            problem = StoreError("away")
            problem.retryable = True
            raise problem
        return await get_run(run)

    lab.broker.post, lab.store.get_run = refusing_post, refusing_get  # type: ignore[method-assign]
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [1]}), "k")
    await asyncio.sleep(5)
    assert not lab.shard.session.state.runs
    away = False
    assert len(await runs(lab)) == 1
    await lab.stop()


@virtual
async def test_nothing_is_read_while_the_partition_has_no_room() -> None:
    lab = await Lab().start()
    gate, outbox = asyncio.Event(), lab.shard.dispatcher.outbox

    async def held(frames: int) -> None:
        await gate.wait()

    below, outbox.below = outbox.below, held  # type: ignore[method-assign]
    await asyncio.sleep(10)
    for number in range(3 * intake.AT_ONCE):
        topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [number]}))
    await asyncio.sleep(30)
    assert len(topic(lab).plain[Topic.SUBMIT]._entries) >= 2 * intake.AT_ONCE, "no more than what was being fetched was taken"
    outbox.below = below  # type: ignore[method-assign]
    gate.set()
    assert len(await runs(lab)) == 3 * intake.AT_ONCE
    await lab.stop()


@virtual
async def test_a_reader_that_lost_the_topic_comes_back() -> None:
    lab = await Lab().start()
    await runs(lab)
    topic(lab).plain[Topic.SUBMIT].open()  # somebody else, who does nothing
    await asyncio.sleep(intake.REOPEN_S * 2)
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [1]}))
    assert len(await runs(lab)) == 1
    await lab.stop()


@virtual
async def test_a_record_that_shows_a_defect_holds_up_nobody() -> None:
    lab = await Lab().start()
    load = lab.node.flows.load

    async def failing(flow: FlowId, overrides: bytes | None = None) -> Any:
        if overrides is not None:
            raise ZeroDivisionError
        return await load(flow, overrides)

    lab.node.flows.load = failing  # type: ignore[method-assign]
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [1], "overrides": {}}))
    topic(lab).write(Topic.SUBMIT, js({"flow": ONE_STEP, "input": [2]}))
    assert len(await runs(lab)) == 1
    (letter,) = await lab.client.parked()
    assert letter.reason.startswith("SM-5131")
    await lab.stop()


@virtual
async def test_a_key_whose_submission_was_refused_at_home_is_free_at_once() -> None:
    """The broker drops what has the id of a message that it had before; another record is another message."""
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    service = lab.node.partitions[Partition(0)]
    admit = service._admit

    async def gone(submit: Submit) -> StartRun | Refused:
        return unknown_flow(submit)

    service._admit = gone  # type: ignore[method-assign]
    topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": [1]}), "k")
    assert await runs(lab) == []
    service._admit = admit  # type: ignore[method-assign]
    topic(lab).write(Topic.SUBMIT, js({"flowId": flow, "input": [2]}), "k")
    assert len(await runs(lab)) == 1
    (letter,) = await lab.client.parked()
    assert (letter.pool, letter.reason[:7]) == ("inbox", "SM-5004")
    await lab.stop()
