"""A flow says by an expression which of its submissions are the same one: the first run is what all of them get, whoever submits them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, run_id, until, virtual

from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh.runs import RunHandle
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol.codec import decode_answer, encode
from stepmesh_broker.protocol.ids import Namespace, partition_of
from stepmesh_broker.protocol.messages import Accepted, Refused, Submit
from stepmesh_broker.protocol.records import Topic
from stepmesh_orchestrator.runtime.owners import moving

PARTITIONS = 4
ORDERS: dict[str, Any] = {**ONE_STEP, "name": "orders", "idempotency": {"key": {"$input": "order"}}}


async def connected(lab: Lab) -> Client:
    broker = MemoryBroker(lab.bus, lab.namespace)
    await broker.connect()
    return Client(broker)


async def lab_of(**engine: Any) -> Lab:
    return await Lab(partitions=PARTITIONS, **engine).start()


@virtual
async def test_equal_keys_are_one_run_wherever_they_are_submitted() -> None:
    lab = await lab_of()
    client = await connected(lab)
    handles = [await client.submit(ORDERS, [{"order": order, "try": number}]) for number in range(4) for order in "abcdefgh"]
    assert len({handle.id for handle in handles}) == 8
    for index, handle in enumerate(handles):
        assert handle.id == handles[index % 8].id
        assert handle.existing == (index >= 8)
    homes = {partition_of(handle.id, PARTITIONS) for handle in handles[:8]}
    assert len(homes) > 1, "keys are spread"
    assert len(await client.list_runs()) == 8
    await lab.stop()


@virtual
async def test_a_run_that_everything_but_the_read_model_forgot_is_the_first_one_still() -> None:
    lab = await lab_of(remember_ended=0)
    client = await connected(lab)
    first = await client.submit(ORDERS, [{"order": 7}])
    await lab.finish(*await lab.take())
    await first.wait(timeout=60)
    await client.submit(ONE_STEP, [1])  # a turn that forgets what ended
    await lab.restart()
    again = await (await connected(lab)).submit(ORDERS, [{"order": 7}])
    assert (again.id, again.existing) == (first.id, True)
    await lab.stop()


@virtual
async def test_keys_belong_to_a_namespace_and_a_flow_by_its_name() -> None:
    lab = Lab(partitions=PARTITIONS)
    lab.settings = replace(lab.settings, tenants=("acme",))
    await lab.start()
    client = await connected(lab)
    other = {**ORDERS, "name": "returns"}
    newer = {**ORDERS, "description": "of the same name"}
    given: list[dict[str, Any]] = [{"order": 7}]
    first = await client.submit(ORDERS, given)
    assert (await client.submit(newer, given)).id == first.id
    assert (await client.submit(other, given)).id != first.id
    assert (await client.submit(ORDERS, given, tenant="acme")).id != first.id
    await lab.stop()


@virtual
async def test_a_run_key_of_the_submission_counts_and_a_retry_or_fork_is_a_run_of_its_own() -> None:
    lab = await lab_of()
    client = await connected(lab)
    first = await client.submit(ORDERS, [{"order": 7}])
    assert (await client.submit(ORDERS, [{"order": 7}], run_key="mine")).id != first.id
    forked = await client.control.fork(first.id)
    assert forked.run != first.id
    assert forked.run != (await client.control.fork(first.id)).run
    await lab.stop()


@virtual
async def test_records_of_the_submit_topic_and_clients_mean_the_same_run() -> None:
    lab = await lab_of()
    client = await connected(lab)
    first = await client.submit(ORDERS, [{"order": 7}])
    topic = lab.bus.streams(lab.namespace)
    for order in (7, 8, 8):
        topic.write(Topic.SUBMIT, js({"flow": ORDERS, "input": [{"order": order}]}))
    await until(lambda: not topic.plain[Topic.SUBMIT]._entries)
    second = await client.submit(ORDERS, [{"order": 8}])
    assert second.existing
    assert {run.run for run in await client.list_runs()} == {first.id, second.id}
    await lab.stop()


@virtual
async def test_a_submission_in_the_inbox_is_sent_to_the_home_of_its_key_and_answered_from_there() -> None:
    lab = await lab_of()
    flow = await lab.flow(ORDERS)
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(data: bytes) -> None:
        answers.put_nowait(data)

    subject: Any = "stepmesh.default.replies"
    await lab.client.listen(subject, hear)
    told: list[Accepted | Refused] = []
    for number in range(1, 9):
        run = run_id(number)
        submit = Submit(run, lab.namespace, flow, [js({"order": 7})], reply_to=subject)
        await lab.client.post(partition_of(run, PARTITIONS), encode(submit), "")
        answer = decode_answer(await asyncio.wait_for(answers.get(), 60))
        assert isinstance(answer, Accepted)
        told.append(answer)
    assert {answer.run for answer in told if isinstance(answer, Accepted)} == {told[0].run}  # type: ignore[union-attr]
    await lab.stop()


@virtual
async def test_an_input_without_the_key_is_refused_at_any_door() -> None:
    lab = await lab_of()
    client = await connected(lab)
    for given in ({}, {"order": "x" * 201}):
        with pytest.raises(RequestRefused) as caught:
            await client.submit(ORDERS, [given])
        assert caught.value.code == "SM-5260"
    assert (await client.submit(ORDERS, [{"order": "x" * 200}])).id
    topic = lab.bus.streams(lab.namespace)
    topic.write(Topic.SUBMIT, js({"flow": ORDERS, "input": [{}]}))
    await until(lambda: bool(topic.parked))
    (letter,) = topic.parked.values()
    assert letter.reason.startswith("SM-5260")
    await lab.stop()


@virtual
async def test_while_the_home_of_a_key_is_away_a_submission_waits() -> None:
    lab = await lab_of()
    client = await connected(lab)
    request, tries = lab.broker.request, 0

    async def refusing(subject: Any, data: bytes, timeout_s: float) -> bytes:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise BrokerUnavailable("away")
        return encode(moving(partition_of("x", PARTITIONS))) if tries == 2 else await request(subject, data, timeout_s)

    lab.broker.request = refusing  # type: ignore[method-assign]
    handles = [await client.submit(ORDERS, [{"order": number // 2}]) for number in range(16)]
    assert [len({one.id for one in handles[number : number + 2]}) for number in range(0, 16, 2)] == [1] * 8
    assert tries > 2
    await lab.stop()


@virtual
async def test_a_home_that_stays_away_is_told_to_the_client() -> None:
    lab = await lab_of()
    flow = await lab.flow(ORDERS)

    async def gone(subject: Any, data: bytes, timeout_s: float) -> bytes:
        raise BrokerUnavailable("away")

    request, lab.broker.request = lab.broker.request, gone  # type: ignore[method-assign]
    runs = [run_id(number) for number in range(1, 30)]
    asked = [lab.control(Submit(run, Namespace("default"), flow, [js({"order": 7})]), partition_of(run, PARTITIONS)) for run in runs]
    answers = await asyncio.gather(*asked)
    assert {answer.code for answer in answers if isinstance(answer, Refused)} == {"SM-5110"}
    assert len({answer.run for answer in answers if isinstance(answer, Accepted)}) == 1, "some came to the home itself"
    lab.broker.request = request  # type: ignore[method-assign]
    await lab.stop()


@virtual
async def test_the_key_of_a_run_that_was_deleted_is_free() -> None:
    lab = await lab_of()
    client = await connected(lab)
    first = await client.submit(ORDERS, [{"order": 7}])
    await lab.finish(*await lab.take())
    await first.wait(timeout=60)
    assert [event.kind async for event in first.events(follow=False)][-1] == "run_completed"
    deleted, again = await asyncio.gather(client.delete_run(first.id), until_new(client))
    assert (deleted, again.existing) == (None, False)
    assert [event.kind async for event in again.events(follow=False)][-1] == "step_started"
    await lab.restart()
    client = await connected(lab)
    assert (await client.submit(ORDERS, [{"order": 7}])).existing, "of the second one"
    await lab.finish(*await lab.take())
    ended = (await client.handle(again.id).wait(timeout=60)).summary
    assert (ended.status, [run.run for run in await client.list_runs()]) == ("completed", [again.id])
    assert (await client.submit(ORDERS, [{"order": 7}])).id == again.id
    await lab.stop()


async def until_new(client: Client) -> RunHandle:
    while (run := await client.submit(ORDERS, [{"order": 7}])).existing:
        await asyncio.sleep(0)
    return run
