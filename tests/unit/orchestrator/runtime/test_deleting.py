"""Deleting runs and flows: gone from every list, still gone after a crash, and nothing that lives is hurt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, run_id, until, virtual

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_broker.protocol.messages import Accepted, Cancel, ParentRef, Refused, Submit, Task
from stepmesh_orchestrator.core.events import RunDeleted, decode_turn
from stepmesh_orchestrator.store.memory import MemoryStore

INNER: dict[str, Any] = {"steps": [{"id": "x", "component": "/py/work", "input": {"$input": "$"}}], "output": {"$step": "x"}}
MAP: dict[str, Any] = {
    "name": "outer",
    "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": {"$input": "$"}, "workflow": {"$literal": INNER}}}],
    "output": {"$step": "m"},
}


async def work_off(lab: Lab, run: RunId) -> None:
    """Answer its tasks until it is over."""
    while run in lab.shard.session.state.runs:
        await lab.finish(*await lab.take(timeout_s=0.1))
    await lab.ended(run)


async def ended(lab: Lab, document: dict[str, Any] = ONE_STEP, *inputs: Any, **more: Any) -> RunId:
    run = await lab.submit(document, *inputs, **more)
    await work_off(lab, run)
    return run


async def child_of(lab: Lab, task: Task, document: dict[str, Any], run: RunId, run_key: str | None = None) -> RunId:
    """A sub-run that the component of `task` starts."""
    parent = ParentRef(RunId(task.root or task.run), task.run, task.item, task.step, "key")
    submit = Submit(run, lab.namespace, await lab.flow(document), [b"1"], parent=parent, run_key=run_key)
    assert isinstance(await lab.control(submit), Accepted)
    return run


async def check_gone(lab: Lab, run: RunId) -> None:
    """Every door says so."""
    for request in (api.GetRun(run), api.GetRun(run, 1_000), api.GetSteps(run), api.GetEvents(run), api.Explain(run), api.DeleteRun(run)):
        assert (await lab.ask(request, Refused)).code == "SM-5003", request
    assert (await lab.ask(api.GetItems(run, live=True), Refused)).code == "SM-5003"
    assert (await lab.ask(api.GetItems(run), api.Items)).results == []
    assert run not in [listed.run for listed in (await lab.ask(api.ListRuns(), api.Runs)).runs]
    assert (await lab.control(Cancel(run))).code == "SM-5003"


@virtual
async def test_a_deleted_run_is_gone_with_its_sub_runs_and_stays_gone_after_a_crash() -> None:
    lab = await Lab().start()
    run, other = await ended(lab, MAP, [1, 2]), await ended(lab)
    (child,) = [listed.run for listed in (await lab.ask(api.ListRuns(parent=run), api.Runs)).runs]
    assert (await lab.ask(api.DeleteRun(child), Refused)).code == "SM-5014"
    await lab.ask(api.DeleteRun(run), api.Deleted)
    for _ in range(2):
        await check_gone(lab, run)
        await check_gone(lab, child)
        assert [listed.run for listed in (await lab.ask(api.ListRuns(), api.Runs)).runs] == [other]
        await lab.restart()
    await lab.stop()


@virtual
async def test_a_read_model_that_is_rebuilt_from_the_journal_does_not_bring_it_back() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    run, other = await ended(lab), await ended(lab)
    await lab.ask(api.DeleteRun(run), api.Deleted)
    await lab.node.abort()
    record = await lab.store.get_flow(flow)
    assert record is not None
    lab.store = MemoryStore()
    await lab.store.put_flow(record)
    await lab.start()
    await check_gone(lab, run)
    assert (await lab.ask(api.GetRun(other), api.RunInfo)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_a_deletion_is_an_event_of_the_journal() -> None:
    lab = await Lab().start()
    run = await ended(lab)
    await lab.ask(api.DeleteRun(run), api.Deleted)
    told = [event async for frame in lab.journal.read(Partition(0)) for event in decode_turn(frame.payload).events]
    assert told[-1] == RunDeleted(run, [run])
    await lab.stop()


@virtual
async def test_what_lives_is_not_deleted() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [1, 2])
    refused = await lab.ask(api.DeleteRun(run), Refused)
    assert (refused.code, bool(refused.hint)) == ("SM-5012", True)
    assert (await lab.ask(api.DeleteRun(run_id(999)), Refused)).code == "SM-5003"
    await work_off(lab, run)
    await lab.ask(api.DeleteRun(run), api.Deleted)
    await lab.stop()


@virtual
async def test_a_run_whose_sub_run_outlived_it_is_not_deleted_before_that_ended() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    (task,) = await lab.take()
    child = await child_of(lab, task, INNER, run_id(50), "key of the child")
    await lab.finish(task)
    await until(lambda: run not in lab.shard.session.state.runs)
    assert (await lab.ask(api.DeleteRun(run), Refused)).code == "SM-5012"
    await work_off(lab, child)
    await lab.ask(api.DeleteRun(run), api.Deleted)
    await check_gone(lab, child)
    await lab.stop()


@virtual
async def test_the_run_keys_of_what_was_deleted_are_free_and_its_ids_are_not() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    first = await lab.submit(ONE_STEP, run_key="k")
    (task,) = await lab.take()
    child = await child_of(lab, task, INNER, run_id(50), "c")
    await work_off(lab, child)
    await lab.finish(task)
    await lab.ended(first)
    again = Submit(run_id(60), lab.namespace, flow, [b"1"], run_key="k")
    assert await lab.control(again) == Accepted(first, existing=True)
    await lab.ask(api.DeleteRun(first), api.Deleted)
    await lab.restart()
    late = Submit(first, lab.namespace, flow, [b"1"])
    assert await lab.control(late) == Accepted(first, existing=True), "a submission that comes twice brings nothing back"
    await check_gone(lab, first)
    assert await lab.control(again) == Accepted(run_id(60))
    assert await lab.control(Submit(run_id(61), lab.namespace, flow, [b"1"], run_key="c")) == Accepted(run_id(61))
    await lab.stop()


# --- flows ---


@virtual
async def test_a_deleted_flow_is_gone_and_can_be_stored_again() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    run = await ended(lab)
    await lab.ask(api.DeleteFlow(flow), api.Deleted)
    for request in (api.GetFlow(flow), api.GetVariables(flow), api.DeleteFlow(flow)):
        assert (await lab.ask(request, Refused)).code == "SM-5004"
    assert (await lab.control(Submit(run_id(70), lab.namespace, flow, [b"1"]))).code == "SM-5004"
    assert (await lab.ask(api.GetRun(run, 0, True), api.RunInfo)).summary.flow == flow
    assert [step.step_id for step in (await lab.ask(api.GetSteps(run), api.Steps)).steps] == ["a"]
    assert await lab.flow(ONE_STEP) == flow
    await ended(lab)
    await lab.stop()


@virtual
async def test_a_flow_that_a_live_run_uses_stays() -> None:
    lab = await Lab(partitions=3).start()
    flow = await lab.flow(ONE_STEP)
    run = await lab.submit()
    refused = await lab.ask(api.DeleteFlow(flow), Refused)
    assert (refused.code, flow in refused.message) == ("SM-5013", True)
    assert (await lab.ask(api.GetFlow(flow), api.FlowData)).flow == flow
    await lab.finish(*await lab.take())
    await lab.ended(run)
    await lab.ask(api.DeleteFlow(flow), api.Deleted)
    await lab.stop()


@virtual
async def test_a_flow_whose_run_is_about_to_begin_stays() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    append = lab.journal.append

    async def slow(*of: Any) -> None:
        await asyncio.sleep(0.5)
        await append(*of)

    lab.journal.append = slow  # type: ignore[method-assign]
    await lab.node.flows.load(flow)
    first = asyncio.create_task(lab.control(Submit(run_id(80), lab.namespace, await lab.flow(MAP), [b"[]"])))
    await until(lambda: not lab.shard.is_settled)
    second = asyncio.create_task(lab.control(Submit(run_id(81), lab.namespace, flow, [b"1"])))
    await until(lambda: bool(lab.shard.inputs.commands))
    assert (await lab.ask(api.DeleteFlow(flow), Refused)).code == "SM-5013"
    assert await asyncio.gather(first, second) == [Accepted(run_id(80)), Accepted(run_id(81))]
    await lab.stop()


@virtual
async def test_a_run_that_ended_only_in_memory_still_needs_its_flow() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    run = await lab.submit()
    (task,) = await lab.take()
    append, gate = lab.journal.append, asyncio.Event()

    async def held(*of: Any) -> None:
        await gate.wait()
        await append(*of)

    lab.journal.append = held  # type: ignore[method-assign]
    await lab.finish(task)
    await until(lambda: run not in lab.shard.session.state.runs)
    assert (await lab.ask(api.DeleteFlow(flow), Refused)).code == "SM-5013"
    gate.set()
    await until(lambda: lab.shard.is_settled)
    await lab.ask(api.DeleteFlow(flow), api.Deleted)
    await lab.stop()


@pytest.mark.parametrize("snapshot_at", [None, "running", "over"])
def test_a_journal_that_still_tells_of_it_is_read(snapshot_at: str | None) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        inner, outer = await lab.flow(INNER), await lab.flow(MAP)
        run = await lab.submit(MAP, [1, 2], run_key="k")
        (first, second) = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
        stays = await child_of(lab, first, ONE_STEP, run_id(90))
        if snapshot_at == "running":
            await lab.shard.snapshot()
        await lab.finish(first, second)
        await until(lambda: run not in lab.shard.session.state.runs)
        if snapshot_at == "over":
            await lab.shard.snapshot()
        for flow in (inner, outer):
            await lab.ask(api.DeleteFlow(flow), api.Deleted)
        assert (await lab.ask(api.DeleteFlow(await lab.flow(ONE_STEP)), Refused)).code == "SM-5013"
        await lab.restart()
        assert list(lab.shard.session.state.runs) == [stays]
        assert lab.shard.session.state.trees[run].in_flight == 1
        info = await lab.ask(api.GetRun(run, 0, True), api.RunInfo)
        assert (info.summary.status, info.summary.total, info.summary.flow_name) == ("completed", 1, "outer")
        again = Submit(run_id(91), lab.namespace, await lab.flow(ONE_STEP), [b"1"], run_key="k")
        assert await lab.control(again) == Accepted(run, existing=True)
        await asyncio.sleep(10)
        await work_off(lab, stays)
        await lab.stop()

    check()


@virtual
async def test_a_flow_that_was_inline_is_stored_again_when_it_is_needed_again() -> None:
    lab = await Lab().start()
    inner = await lab.flow(INNER)
    await ended(lab, MAP, [1])
    await lab.ask(api.DeleteFlow(inner), api.Deleted)
    run = await lab.submit(MAP, [1])
    await lab.finish(*await lab.take())
    assert (await lab.ended(run)).summary.status == "completed"
    assert (await lab.ask(api.GetFlow(inner), api.FlowData)).flow == inner
    await lab.stop()


@virtual
async def test_a_flow_that_is_a_blob_is_deleted_and_other_blobs_are_no_flows() -> None:
    lab = await Lab().start()
    flow = FlowId((await lab.ask(api.PutBlob(js(ONE_STEP), "flow"), api.BlobStored)).blob)
    other = FlowId((await lab.ask(api.PutBlob(b"[1]"), api.BlobStored)).blob)
    assert (await lab.ask(api.GetFlow(flow), api.FlowData)).document == js(ONE_STEP)
    assert (await lab.ask(api.GetFlow(other), Refused)).code == "SM-5004"
    assert (await lab.ask(api.DeleteFlow(other), Refused)).code == "SM-5004"
    await lab.ask(api.DeleteFlow(flow), api.Deleted)
    assert (await lab.ask(api.GetFlow(flow), Refused)).code == "SM-5004"
    await lab.stop()
