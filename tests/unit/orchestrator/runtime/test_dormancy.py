"""Runs that sleep for long leave memory, and nobody who asks for one notices: every door, their time, a crash, the journal's retention."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import Lab, run_id, until, virtual

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Accepted, Cancel, Refused, Submit
from stepmesh_orchestrator.core.dormant import frame_of
from stepmesh_orchestrator.core.events import TreeDormant, TreeWoken, decode_turn
from stepmesh_orchestrator.core.snapshot import state_hash
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import JournalError
from stepmesh_orchestrator.runtime import dormitory, timers, waits

P = Partition(0)


def nap(seconds: Any = "100s", **more: Any) -> dict[str, Any]:
    step = {"id": "s", "component": "/builtin/sleep", "input": {"duration": seconds, "passthrough": "awake"}}
    return {"name": "nap", "steps": [step], "output": {"$step": "s"}, **more}


INNER = {"$literal": nap("100s")}
OUTER: dict[str, Any] = {
    "name": "outer",
    "steps": [{"id": "e", "component": "/builtin/eval", "input": {"flow": INNER, "input": 1}}],
    "output": {"$step": "e", "path": "result"},
}


def state(lab: Lab) -> State:
    return lab.shard.session.state


async def dormant(lab: Lab, *runs: RunId) -> None:
    """Wait until these are out of memory."""
    await until(lambda: all(run in state(lab).dormant and run not in state(lab).runs for run in runs) and lab.shard.is_settled)


async def asleep(lab: Lab, document: dict[str, Any] | None = None, *inputs: Any, **more: Any) -> RunId:
    """A run that is dormant."""
    run = await lab.submit(document or nap(), *inputs, **more)
    await dormant(lab, run)
    return run


async def events_of(lab: Lab, kind: type) -> list[Any]:
    frames = [decode_turn(frame.payload) async for frame in lab.journal.read(P, after=lab.journal.logs[P].head.trimmed)]
    return [event for turn in frames for event in turn.events if isinstance(event, kind)]


@virtual
async def test_it_ends_at_its_time_as_if_it_had_stayed() -> None:
    lab = await Lab().start()
    began = lab.node.ports.clock.now_ms()
    run = await asleep(lab)
    assert (state(lab).runs, state(lab).trees) == ({}, {})
    await until(lambda: run in state(lab).finished, 200)
    info = await lab.ended(run)
    assert info.results[0].result == b'{"outcome":"success","result":"awake"}'
    assert info.summary.finished_ms is not None
    assert 100_000 <= info.summary.finished_ms - began < 100_100
    assert not state(lab).dormant
    await lab.stop()


@pytest.mark.parametrize(("seconds", "leaves"), [(31, False), (33, True)])
def test_only_who_has_long_to_wait_leaves(seconds: int, leaves: bool) -> None:
    """It is looked at two seconds after it fell asleep, and must have thirty left."""

    @virtual
    async def play() -> None:
        lab = await Lab().start()
        run = await lab.submit(nap(f"{seconds}s"))
        await until(lambda: run in state(lab).finished, 60)
        assert len(await events_of(lab, TreeDormant)) == leaves
        await lab.stop()

    play()


@virtual
async def test_readers_see_it_and_it_stays_dormant() -> None:
    lab = await Lab().start()
    run = await asleep(lab, OUTER)
    (child,) = [listed.run for listed in (await lab.ask(api.ListRuns(parent=run), api.Runs)).runs]
    for one in (run, child):
        assert (await lab.ask(api.GetRun(one), api.RunInfo)).summary.status == "running"
    (step,) = (await lab.ask(api.GetSteps(child), api.Steps)).steps
    assert (step.step_id, step.status) == ("s", "sleeping")
    lines = (await lab.ask(api.Explain(run), api.Explained)).lines
    assert any("waits for its sub-run" in line for line in lines)
    assert any("sleeps for" in line for line in lines)
    kinds = [event.kind for event in (await lab.ask(api.GetEvents(run), api.Events)).events]
    assert kinds[-1] == "step_sleeping"
    assert [listed.status for listed in (await lab.ask(api.ListRuns(), api.Runs)).runs] == ["running", "running"]
    assert not await events_of(lab, TreeWoken)
    assert {run, child} <= state(lab).dormant.places.keys()
    await lab.stop()


@virtual
async def test_counts_of_ended_items_are_listed_while_it_is_dormant() -> None:
    lab = await Lab().start()
    run = await asleep(lab, nap({"$input": "$"}), "0s", "100s")
    (listed,) = (await lab.ask(api.ListRuns(), api.Runs)).runs
    assert (listed.run, listed.status, listed.completed, listed.total) == (run, "running", 1, 2)
    await lab.stop()


@virtual
async def test_who_waits_for_it_hears_its_end() -> None:
    lab = await Lab().start()
    run = await asleep(lab, nap("50s"))
    info = await lab.ask(api.GetRun(run, 60_000, True), api.RunInfo)
    assert info.summary.status == "completed"
    await lab.stop()


@pytest.mark.parametrize("by_inbox", [False, True])
def test_it_is_cancelled_with_its_sub_runs(by_inbox: bool) -> None:
    @virtual
    async def play() -> None:
        lab = await Lab().start()
        run = await asleep(lab, OUTER)
        child = next(one for one in state(lab).dormant.places if one != run)
        if by_inbox:
            await lab.client.post(P, encode(Cancel(child, "enough")))
            await until(lambda: child not in state(lab).dormant and child not in state(lab).runs)
            await until(lambda: run in state(lab).finished)
        else:
            assert await lab.control(Cancel(run, "enough")) == Accepted(run)
            assert (await lab.ended(run)).summary.status == "cancelled"
        assert (len(state(lab).dormant), state(lab).runs, state(lab).dormant.frames, state(lab).dormant.flows) == (0, {}, {}, {})
        await lab.stop()

    play()


@virtual
async def test_a_submission_that_comes_again_and_its_key_are_known() -> None:
    lab = await Lab().start()
    run = await asleep(lab, run_key="once")
    again = Submit(run, Namespace("default"), await lab.flow(nap()), [b"null"])
    assert await lab.control(again) == Accepted(run, existing=True)
    other = Submit(run_id(99), Namespace("default"), again.flow, [b"null"], run_key="once")
    assert await lab.control(other) == Accepted(run, existing=True)
    assert run in state(lab).dormant
    await lab.stop()


@virtual
async def test_neither_it_nor_its_flow_can_be_deleted() -> None:
    lab = await Lab().start()
    run = await asleep(lab)
    assert (await lab.ask(api.DeleteRun(run), Refused)).code == "SM-5012"
    assert (await lab.ask(api.DeleteFlow(await lab.flow(nap())), Refused)).code == "SM-5013"
    await until(lambda: run in state(lab).finished, 200)
    await lab.ask(api.DeleteRun(run), api.Deleted)
    await lab.ask(api.DeleteFlow(await lab.flow(nap())), api.Deleted)
    await lab.restart()
    assert (await lab.ask(api.GetRun(run), Refused)).code == "SM-5003"
    await lab.stop()


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_crash_changes_nothing(snapshot: bool) -> None:
    @virtual
    async def play() -> None:
        lab = await Lab().start()
        runs = [await lab.submit(OUTER if number % 2 else nap(f"{100 + number}s")) for number in range(6)]
        await dormant(lab, *runs)
        before = state_hash(state(lab))
        if snapshot:
            await lab.shard.snapshot()
        await lab.restart()
        assert state_hash(state(lab)) == before
        assert state(lab).runs == {}
        await until(lambda: all(run in state(lab).finished for run in runs), 200)
        assert [(await lab.ended(run)).summary.status for run in runs] == ["completed"] * 6
        await lab.stop()

    play()


@virtual
async def test_many_that_are_due_at_once_come_back_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dormitory, "AT_ONCE", 3)
    monkeypatch.setattr(waits, "TIMERS_AT_ONCE", 2)
    lab = await Lab().start()
    moment = lab.node.ports.clock.now_ms() + 100_000
    runs = [await lab.submit(nap(), 1) for _ in range(10)]
    await dormant(lab, *runs)
    await until(lambda: all(run in state(lab).finished for run in runs), 200)
    frames = [decode_turn(frame.payload) async for frame in lab.journal.read(P)]
    assert max(sum(isinstance(event, TreeWoken) for event in turn.events) for turn in frames) == 3
    assert all(turn.at_ms < moment + 1_000 for turn in frames)
    await lab.stop()


@virtual
async def test_what_it_needs_of_the_journal_is_not_forgotten_and_moves_up() -> None:
    lab = await Lab(retain_ms=50_000).start()
    run = await asleep(lab, nap("500s"))
    first = frame_of(state(lab).dormant.places[run])
    for _ in range(8):
        await lab.submit(nap("1s"))
        await asyncio.sleep(20)
        await lab.shard.snapshot()
        trimmed = lab.journal.logs[P].head.trimmed
        assert run in state(lab).runs or trimmed < frame_of(state(lab).dormant.places[run])
    await dormant(lab, run)
    assert frame_of(state(lab).dormant.places[run]) > first
    await lab.submit(nap("1s"))
    await asyncio.sleep(60)
    await lab.shard.snapshot()
    assert lab.journal.logs[P].head.trimmed >= first
    await lab.restart()
    await until(lambda: run in state(lab).finished, 500)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


async def _unused() -> bool:
    return False


@virtual
async def test_a_run_whose_flow_is_lost_waits_for_it() -> None:
    lab = await Lab().start()
    run = await asleep(lab)
    flow = next(iter(state(lab).dormant.flows))
    record = await lab.store.get_flow(flow)
    assert record is not None
    await lab.store.delete_flow(flow)
    await lab.node.abort()
    with pytest.raises(JournalError) as lost:
        await lab.start()
    assert lost.value.code == "SM-4008"
    await lab.store.put_flow(record)
    await lab.start()
    assert await lab.node.flows.remove(flow, _unused)
    await asyncio.sleep(100)
    refused = await lab.control(Cancel(run, "enough"))
    assert refused.code == "SM-5121"
    await lab.store.put_flow(record)
    await until(lambda: run in state(lab).finished, 60)
    await lab.stop()


@virtual
async def test_void_timers_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "PRUNED_FROM", 4)
    lab = await Lab().start()
    runs = [await lab.submit(nap()) for _ in range(6)]
    await dormant(lab, *runs)
    assert len(lab.shard.waits.timers) < 4
    await lab.stop()


@virtual
async def test_many_that_left_are_in_a_snapshot_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "RESTED", 5)
    lab = await Lab().start()
    await dormant(lab, *[await lab.submit(nap()) for _ in range(5)])
    assert not lab.journal.logs[P].snapshots
    await asleep(lab)
    await until(lambda: len(lab.journal.logs[P].snapshots) == 1)
    await lab.stop()


@virtual
async def test_an_image_that_is_damaged_costs_nobody_but_its_run(caplog: pytest.LogCaptureFixture) -> None:
    lab = await Lab().start()
    lost = await asleep(lab)
    other = await asleep(lab)
    await lab.shard.snapshot()
    damaged = frame_of(state(lab).dormant.places[lost])
    await lab.node.abort()
    log = lab.journal.logs[P]
    log.frames[damaged - 1] = log.frames[damaged - 1]._replace(payload=b"nothing")
    await lab.start()
    await until(lambda: other in state(lab).finished, 200)
    assert lost in state(lab).dormant
    assert "SM-5122" in caplog.text
    assert lost in caplog.text
    assert (await lab.control(Cancel(lost, "enough"))).code == "SM-5120"
    assert (await lab.ask(api.GetRun(lost), api.RunInfo)).summary.status == "running"
    await lab.stop()
