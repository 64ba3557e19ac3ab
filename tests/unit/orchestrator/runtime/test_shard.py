"""The shard: what comes through the inbox, what a failing decision costs, and what is seen while a turn is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, ref, run_id, until, virtual

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_answer, decode_presence, encode
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, Pool, Position, RunId
from stepmesh_broker.protocol.messages import Accepted, Cancel, ParentRef, Refused, Result, Results, Stop, Submit, TaskRef
from stepmesh_broker.protocol.subjects import Subject
from stepmesh_orchestrator.core import decide as deciding
from stepmesh_orchestrator.core import evolve
from stepmesh_orchestrator.core.commands import EndTask, StartRun
from stepmesh_orchestrator.core.decide import results
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.events import StepSucceeded, decode_turn
from stepmesh_orchestrator.node import Node
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.runtime import alarm, partition
from stepmesh_orchestrator.runtime import shard as shards

P = Partition(0)
ANSWERS = Subject("answers.to.me")


class Heard:
    """Answers to messages that came through the inbox."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    async def listen(self, lab: Lab) -> Heard:
        await lab.client.listen(ANSWERS, self._hear)
        return self

    async def _hear(self, data: bytes) -> None:
        self.answers.append(decode_answer(data))

    async def one(self) -> Any:
        await until(lambda: bool(self.answers))
        return self.answers.pop(0)


async def posted(lab: Lab, **changes: Any) -> Submit:
    """A submission through the inbox."""
    fields: dict[str, Any] = {
        "run": run_id(77),
        "namespace": lab.namespace,
        "flow": changes.get("flow") or await lab.flow(ONE_STEP),
        "inputs": [b"1"],
        "reply_to": ANSWERS,
    }
    submit = Submit(**{**fields, **changes})
    await lab.client.post(P, encode(submit))
    return submit


# --- the inbox ---


@virtual
async def test_a_submission_through_the_inbox_is_answered_when_it_is_journaled() -> None:
    lab = await Lab().start()
    heard = await Heard().listen(lab)
    submit = await posted(lab)
    assert await heard.one() == Accepted(submit.run)
    await lab.client.post(P, encode(submit))
    assert await heard.one() == Accepted(submit.run, existing=True)
    await lab.client.post(P, encode(Cancel(submit.run, "enough", ANSWERS)))
    assert await heard.one() == Accepted(submit.run)
    assert (await lab.ended(submit.run)).summary.status == "cancelled"
    await lab.client.post(P, encode(Cancel(RunId("nobody"), "", ANSWERS)))
    assert (await heard.one()).code == "SM-5003"
    await lab.stop()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"flow": FlowId("0" * 64)}, "SM-5004"),
        ({"namespace": Namespace("other")}, "SM-5008"),
        ({"overrides": js({"no such step": {"input": 1}})}, "SM-2040"),
        ({"inputs": [b"{"]}, "SM-5001"),
        ({"max_concurrency": -1}, "SM-5002"),
        ({"parent": ParentRef(run_id(5), run_id(5), 0, 0, "k")}, "SM-5007"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_alike_by_both_ways(changes: dict[str, Any], code: str) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        heard = await Heard().listen(lab)
        submit = await posted(lab, **changes)
        through_the_inbox = await heard.one()
        assert isinstance(through_the_inbox, Refused)
        assert through_the_inbox.code == code
        directly = await lab.control(submit)
        assert isinstance(directly, Refused)
        assert directly.code == code
        assert lab.shard.session.state.runs == {}
        await lab.stop()

    check()


@virtual
async def test_a_run_that_belongs_to_another_partition_is_refused() -> None:
    lab = await Lab(partitions=2).start()
    flow = await lab.flow(ONE_STEP)
    answers = [await lab.control(Submit(run_id(1), lab.namespace, flow, [b"1"]), partition) for partition in (0, 1)]
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Refused"]
    assert [answer.code for answer in answers if isinstance(answer, Refused)] == ["SM-5010"]
    await lab.stop()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"garbage", encode(["results"]), encode({"a": 1}), b"\x93\xa6submit\x01\x02"])
def test_what_is_no_message_is_parked_and_its_position_journaled(data: bytes) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        position = await lab.client.post(P, data)
        await until(lambda: lab.shard.session.state.inbox >= position)
        (parked,) = await lab.client.parked()
        assert (parked.pool, parked.data) == ("inbox", data)
        assert "SM-3003" in parked.reason
        assert lab.shard.counters.malformed == 1
        await until(lambda: not lab.bus.streams(lab.namespace).inbox(P)._entries)  # type: ignore[reportPrivateUsage]
        await lab.restart()
        await lab.submit()
        assert len(await lab.client.parked()) == 1, "it is not parked again by the next owner"
        await lab.stop()

    check()


@virtual
async def test_results_of_another_journal_are_dropped_and_counted() -> None:
    lab = await Lab().start()
    await lab.submit()
    (task,) = await lab.take()
    result = Result(task.run, task.item, task.step, task.attempt, b"1")
    await lab.client.post(P, encode(Results(task.run, "another journal", [result, result])))  # type: ignore[arg-type]
    await until(lambda: lab.shard.session.stale_results == 2)
    assert task.run in lab.shard.session.state.runs
    await lab.stop()


@virtual
async def test_a_duplicate_result_changes_nothing() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    (task,) = await lab.take()
    await lab.finish(task, output="first")
    await lab.finish(task, output="second")
    assert (await lab.result(run))["result"] == "first"
    await until(lambda: lab.shard.session.stale_results == 1)
    await lab.stop()


@virtual
async def test_a_message_that_is_redelivered_after_it_was_journaled_is_not_decided_again() -> None:
    lab = await Lab().start()
    heard = await Heard().listen(lab)
    await posted(lab)
    await heard.one()
    known = lab.shard.session.state.inbox
    lab.shard.receive(Position(known), Cancel(run_id(77), "again", ANSWERS))
    await lab.submit()
    assert run_id(77) in lab.shard.session.state.runs
    assert heard.answers == []
    await lab.stop()


@virtual
async def test_a_store_that_is_away_holds_a_submission_up_but_loses_it_not() -> None:
    class Busy(StoreError):
        retryable = True

    lab = await Lab().start()
    heard = await Heard().listen(lab)
    flow = await lab.flow(ONE_STEP)
    troubles: list[StepmeshError] = [Busy("locked"), Busy("locked")]
    get_flow = lab.store.get_flow

    async def sometimes(wanted: FlowId) -> Any:
        if troubles:
            raise troubles.pop()
        return await get_flow(wanted)

    await lab.restart()
    lab.store.get_flow = sometimes  # type: ignore[method-assign]
    await posted(lab, flow=flow)
    assert isinstance(await heard.one(), Accepted)
    assert troubles == []
    await lab.stop()


# --- back-pressure ---


@virtual
async def test_the_inbox_is_read_no_further_than_the_shard_has_room_for() -> None:
    lab = await Lab().start()
    gate = asyncio.Event()
    append = lab.journal.append

    async def slow(*of: Any) -> None:
        await gate.wait()
        await append(*of)

    lab.journal.append = slow  # type: ignore[method-assign]
    for _ in range(3 * shards.MAX_MESSAGES):
        await lab.client.post(P, encode(Cancel(RunId("nobody"))))
    await asyncio.sleep(1)
    assert len(lab.shard.inputs.messages) <= 2 * shards.MAX_MESSAGES
    gate.set()
    await until(lambda: lab.shard.counters.messages == 3 * shards.MAX_MESSAGES)
    await lab.stop()


@virtual
@pytest.mark.parametrize(("took_s", "claimed"), [(0.9, False), (1.1, True)])
async def test_tasks_of_a_turn_that_was_long_in_the_journal_are_claimed_first(
    took_s: float, claimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when on the frame was there is not known: a next owner may have read it, sent the tasks and seen them end."""
    lab = await Lab().start()
    append = lab.journal.append

    async def slow(*frame: Any) -> None:
        await append(*frame)
        await asyncio.sleep(took_s)

    monkeypatch.setattr(lab.journal, "append", slow)
    await lab.submit()
    assert [task.claim_first for task in await lab.take()] == [claimed]


@virtual
async def test_submissions_wait_while_the_broker_takes_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "MAX_BACKLOG", 2)
    lab = await Lab().start()
    gate = asyncio.Event()
    publish = lab.broker.publish_tasks

    async def slow(*of: Any) -> Any:
        await gate.wait()
        return await publish(*of)

    lab.broker.publish_tasks = slow
    await lab.submit()
    await lab.submit()
    turns = lab.shard.counters.turns
    third = asyncio.create_task(lab.submit())
    await asyncio.sleep(30)
    assert not third.done()
    assert lab.shard.counters.turns <= turns + 1, "waiting costs no turns"
    gate.set()
    await third
    await lab.stop()


# --- a decision that fails ---


@virtual
async def test_a_decision_that_raises_costs_its_run_tree_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    lab = await Lab().start()
    bad, good = await lab.submit(), await lab.submit()
    tasks = {task.run: task for _ in range(2) for task in await lab.take()}
    end_task = results.end_task

    def brittle(session: Any, command: EndTask) -> None:
        if command.result.run == bad:
            raise ZeroDivisionError("a defect")
        end_task(session, command)

    monkeypatch.setitem(deciding._DECIDERS, EndTask, brittle)  # type: ignore[reportPrivateUsage]
    await lab.finish(tasks[bad], tasks[good])
    assert (await lab.ended(good)).summary.status == "completed"
    assert (await lab.ended(bad)).summary.status == "cancelled"
    assert lab.shard.counters.quarantined == 1
    assert "SM-5900" in caplog.text
    await lab.restart()
    assert (await lab.ended(bad)).summary.status == "cancelled"
    await lab.stop()


@virtual
async def test_an_event_that_cannot_be_applied_never_gets_into_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = await Lab().start()
    run = await lab.submit()
    (task,) = await lab.take()

    def brittle(state: Any, event: Any, at_ms: int) -> None:
        raise LookupError("a defect")

    monkeypatch.setitem(evolve.STEPS, StepSucceeded, brittle)
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "cancelled"
    kinds = [type(event).__name__ async for frame in lab.journal.read(P) for event in decode_turn(frame.payload).events]
    assert "StepSucceeded" not in kinds
    assert kinds[-1] == "RunEnded"
    monkeypatch.undo()
    await lab.restart()
    assert (await lab.ended(run)).summary.status == "cancelled"
    await lab.stop()


@virtual
async def test_who_submitted_is_told_that_the_decision_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = await Lab().start()
    heard = await Heard().listen(lab)

    def brittle(session: Any, command: StartRun) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setitem(deciding._DECIDERS, StartRun, brittle)  # type: ignore[reportPrivateUsage]
    submit = await posted(lab)
    assert (await heard.one()).code == "SM-5900"
    assert (await lab.control(submit)).code == "SM-5900"
    await lab.stop()


# --- time ---


@virtual
async def test_timers_wake_a_shard_that_sleeps_the_earliest_first() -> None:
    lab = await Lab().start()
    clock = lab.node.ports.clock
    flow = {
        "name": "naps",
        "steps": [{"id": "s", "component": "/builtin/sleep", "input": {"duration": {"$input": "$"}, "passthrough": "awake"}}],
        "output": {"$step": "s"},
    }
    began = clock.now_ms()
    runs = [await lab.submit(flow, f"{seconds}s") for seconds in (200, 100, 5)]
    ended = [(await lab.ended(run)).summary.finished_ms for run in reversed(runs[2:])]
    assert ended[0] is not None
    assert 5_000 <= ended[0] - began < 5_100
    second = await lab.ask(api.GetRun(runs[1]), api.RunInfo)
    assert second.summary.finished_ms is None or 100_000 <= second.summary.finished_ms - began < 100_100
    await until(lambda: runs[0] in lab.shard.session.state.finished, 300)
    last = (await lab.ended(runs[0])).summary.finished_ms
    assert last is not None
    assert 200_000 <= last - began < 200_100
    await lab.stop()


@virtual
async def test_a_busy_shard_with_a_timer_makes_no_task_per_turn() -> None:
    lab = await Lab().start()
    now = lab.node.ports.clock.now_ms()
    lab.shard.session.effects.append(SetTimer(now + 3_600_000, TaskRef(RunId("r"), 0, 0, 1)))
    await lab.submit()
    await asyncio.sleep(1)
    before = lab.shard._alarm._task  # type: ignore[reportPrivateUsage]
    assert before is not None
    for _ in range(20):
        await lab.submit()
    assert lab.shard._alarm._task is before  # type: ignore[reportPrivateUsage]
    await asyncio.sleep(alarm.LONGEST_SLEEP_S + 1)
    assert lab.shard._alarm._task is not before, "the wall clock may have been set"  # type: ignore[reportPrivateUsage]
    await lab.stop()


# --- what is seen ---


@virtual
async def test_between_two_turns_the_state_is_what_the_journal_holds() -> None:
    lab = await Lab().start()
    await lab.submit()
    assert lab.shard.is_settled
    gate = asyncio.Event()
    append = lab.journal.append

    async def slow(*of: Any) -> None:
        await gate.wait()
        await append(*of)

    lab.journal.append = slow  # type: ignore[method-assign]
    submitting = asyncio.create_task(lab.submit())
    await until(lambda: not lab.shard.is_settled)
    clock = asyncio.get_running_loop().time
    began = clock()
    assert not await lab.shard.settled()
    assert clock() - began == pytest.approx(shards.SETTLE_S, abs=0.02)
    gate.set()
    assert await lab.shard.settled()
    await submitting
    await lab.stop()


@virtual
async def test_a_stop_signal_names_all_tasks_of_a_pool_at_once() -> None:
    lab = await Lab().start()
    heard: list[bytes] = []

    async def hear(data: bytes) -> None:
        heard.append(data)

    await lab.client.listen(subjects.workers(lab.namespace, Pool("py")), hear)
    run = await lab.submit(ONE_STEP, *range(5), max_concurrency=0)
    tasks = [task for _ in range(5) for task in await lab.take(timeout_s=0.1)]
    await lab.control(Cancel(run))
    await until(lambda: bool(heard))
    stop = decode_presence(heard[0])
    assert isinstance(stop, Stop)
    assert sorted(task.item for task in stop.tasks) == [0, 1, 2, 3, 4]
    assert {ref(task) for task in tasks} == set(stop.tasks)
    assert len(heard) == 1
    await lab.stop()


@virtual
async def test_a_shard_that_lost_its_partition_ends_and_says_so() -> None:
    lab = await Lab().start()
    await lab.journal.acquire(P, "another owner")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lab.submit(), 5)
    with pytest.raises(StepmeshError) as problem:
        await lab.node.ended
    assert problem.value.code == "SM-4001"
    await lab.node.abort()


@virtual
async def test_a_partition_that_cannot_start_leaves_nothing_behind() -> None:
    lab = await Lab().start()
    await lab.submit()
    await lab.node.stop()
    before = len(asyncio.all_tasks())

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StepmeshError("no")

    lab.broker.serve = refuse
    node = Node(lab.node.ports, lab.settings)
    with pytest.raises(StepmeshError):
        await node.start()
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) == before
