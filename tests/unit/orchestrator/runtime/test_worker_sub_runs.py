"""Sub-runs that a component starts, wherever its step runs: linked, there once, gone with what they belong to. And what a cancel is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, Lab, js, ref, run_id, until, virtual

from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_presence
from stepmesh_broker.protocol.ids import FlowId, Pool, RunId, child_run_id
from stepmesh_broker.protocol.messages import Accepted, Cancel, ErrorCode, Failure, ParentRef, Stop, Submit, Task, TaskRef, Verdict

BODY: dict[str, Any] = {"steps": [{"id": "x", "component": "/py/work", "input": {"$input": "$"}}], "output": {"$step": "x"}}
LOOP: dict[str, Any] = {**BODY, "output": {"result": {"$step": "x"}}}


def within(component: str, **input: Any) -> dict[str, Any]:
    return {"steps": [{"id": "m", "component": f"/builtin/{component}", "input": input}], "output": {"$step": "m"}}


PLACES = {
    "root": BODY,
    "map": within("map", items=[1], workflow={"$literal": BODY}),
    "eval": within("eval", input=1, flow={"$literal": BODY}),
    "iterate": within("iterate", initial_input=1, flow={"$literal": LOOP}),
    "map in eval": within("eval", input=1, flow={"$literal": within("map", items=[1], workflow={"$literal": BODY})}),
}


async def start(lab: Lab, task: Task, flow: FlowId, key: str = "k", *inputs: Any) -> Accepted:
    """As a worker's client does: the id follows from the step and the key."""
    run = child_run_id(task.run, f"{task.item}/{task.step}/{key}")
    parent = ParentRef(RunId(task.root or task.run), task.run, task.item, task.step, key)
    answer = await lab.control(Submit(run, lab.namespace, flow, [js(one) for one in inputs or (5,)], parent=parent))
    assert isinstance(answer, Accepted), answer
    return answer


@pytest.mark.parametrize("place", PLACES)
def test_it_is_linked_runs_and_is_there_once_over_retries_of_its_step(place: str) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        flow = FlowId((await lab.ask(api.PutBlob(js(ONE_STEP), "flow"), api.BlobStored)).blob)
        run = await lab.submit(PLACES[place], max_concurrency=2)
        (task,) = await lab.take()
        first = await start(lab, task, flow)
        summary = (await lab.ask(api.GetRun(first.run), api.RunInfo)).summary
        assert (summary.root, summary.parent, summary.parent_step, summary.flow) == (run, task.run, "x", flow)
        assert [one.run for one in (await lab.ask(api.ListRuns(parent=task.run), api.Runs)).runs] == [first.run]
        await lab.finish(task, failure=Failure(ErrorCode.UNREACHABLE, "its worker vanished"))
        again: list[Task] = []
        while not any(one.run == task.run for one in again):
            again += await lab.take(timeout_s=0.5)
        (retried,) = [one for one in again if one.run == task.run]
        assert retried.attempt == 2
        assert await start(lab, retried, flow) == Accepted(first.run, existing=True)
        (inner, *_) = [one for one in again if one.run == first.run] or await lab.take()
        assert (inner.root, inner.flow) == (run, flow)
        await lab.finish(inner, output="inner")
        assert (await lab.result(first.run))["result"] == "inner"
        assert await start(lab, retried, flow) == Accepted(first.run, existing=True)
        await lab.finish(retried, output="outer")
        assert (await lab.result(run))["outcome"] == "success"
        created = [event.run for event in (await lab.ask(api.GetEvents(run), api.Events)).events if event.kind == "run_created"]
        assert created.count(first.run) == 1
        await lab.stop()

    check()


@pytest.mark.parametrize("place", PLACES)
def test_it_is_cancelled_with_its_root_and_nothing_of_the_tree_is_left(place: str) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        flow = await lab.flow(ONE_STEP)
        run = await lab.submit(PLACES[place])
        (task,) = await lab.take()
        child = (await start(lab, task, flow, "k", 1, 2)).run
        inner = [one for _ in range(2) for one in await lab.take(timeout_s=0.1)]
        await lab.control(Cancel(run))
        statuses = {one.run: one.status for one in (await lab.ask(api.ListRuns(root=run), api.Runs)).runs}
        assert set(statuses.values()) == {"cancelled"}
        assert child in statuses
        assert [await lab.claim(one) for one in (task, *inner)] == [Verdict.GONE] * 3
        assert not lab.shard.session.state.trees
        await lab.restart()
        assert not lab.shard.session.state.runs
        await lab.stop()

    check()


@virtual
async def test_another_key_is_another_sub_run() -> None:
    lab = await Lab().start()
    flow = await lab.flow(ONE_STEP)
    await lab.submit(BODY, max_concurrency=0)
    (task,) = await lab.take()
    first, second = await start(lab, task, flow, "a"), await start(lab, task, flow, "b")
    assert (first.run != second.run, second.existing) == (True, False)
    await lab.stop()


# --- cancel ---


@virtual
async def test_a_cancel_is_real_and_for_good() -> None:
    lab = await Lab().start()
    told: list[TaskRef] = []

    async def hear(data: bytes) -> None:
        message = decode_presence(data)
        assert isinstance(message, Stop)
        told.extend(message.tasks)

    listening = await lab.client.listen(subjects.workers(lab.namespace, Pool("py")), hear)
    run = await lab.submit(ONE_STEP, *range(5), max_concurrency=2)
    done, running = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
    await lab.claim(running)
    await lab.finish(done)
    (queued,) = await lab.take()
    answer = await lab.control(Cancel(run, "enough"))
    assert answer == Accepted(run)
    info = await lab.ask(api.GetRun(run, 0, True), api.RunInfo)
    assert (info.summary.status, info.summary.completed, info.summary.cancelled) == ("cancelled", 1, 4)
    await until(lambda: len(told) == 2)
    assert set(told) == {ref(running), ref(queued)}
    assert (await lab.beat(running), await lab.claim(queued)) == (Verdict.CANCELLED, Verdict.GONE)
    await lab.finish(running, queued, worker=W1)
    await asyncio.sleep(30)
    assert await lab.take(timeout_s=0.1) == [], "nothing new starts, nothing comes again"
    assert lab.shard.session.stale_results == 2
    assert await lab.control(Cancel(run)) == Accepted(run, existing=True)
    await lab.restart()
    again = await lab.ask(api.GetRun(run, 0, True), api.RunInfo)
    assert (again.summary.status, again.results) == ("cancelled", info.results)
    assert await lab.control(Submit(run, lab.namespace, info.summary.flow, [b"1"])) == Accepted(run, existing=True)
    await listening.close()
    await lab.stop()


# --- map.max_concurrency ---


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("restart", [False, True])
def test_the_max_concurrency_of_a_map_holds(limit: int, restart: bool) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        flow = within("map", items=[*range(7)], workflow={"$literal": BODY}, max_concurrency=limit)
        run = await lab.submit(flow, max_concurrency=0)
        flying: dict[int, Task] = {}
        order: list[int] = []
        most = 0
        while run in lab.shard.session.state.runs:
            flying |= {task.item: task for task in await lab.take(timeout_s=0.1)}
            most = max(most, len(flying))
            if restart and len(order) == 2:
                await lab.restart()
                restart_flying = {task.item: task for task in await lab.take(timeout_s=30)}
                assert len(flying | restart_flying) <= limit
            if flying:
                item, task = flying.popitem()
                order.append(item)
                await lab.finish(task, output=item)
                await until(lambda: _done(lab, run) >= len(order))  # it ends before the loop goes on
        result = (await lab.result(run))["result"]
        assert most == limit
        assert sorted(order) == [*range(7)]
        assert [one["result"] for one in result["results"]] == [*range(7)]
        await lab.stop()

    check()


def _done(lab: Lab, run: RunId) -> int:
    """Items of the map that ended."""
    return next((live.ended_items for live in lab.shard.session.state.runs.values() if live.id != run), 7)


@virtual
async def test_a_map_below_its_own_limit_still_keeps_that_of_its_tree() -> None:
    lab = await Lab().start()
    await lab.submit(within("map", items=[*range(7)], workflow={"$literal": BODY}, max_concurrency=5), max_concurrency=2, run=run_id(9))
    assert len([task for _ in range(7) for task in await lab.take(timeout_s=0.1)]) == 2
    await lab.stop()
