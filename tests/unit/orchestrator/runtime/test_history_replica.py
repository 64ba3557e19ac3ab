"""What history derives: which steps became needed or ready with an event, and how steps stood at any position."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, until, virtual
from tests.unit.orchestrator.runtime.test_history import MAP, Story

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Refused, Task

Told = list[tuple[str, Any]]


def work(name: str, input: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": name, "component": "/py/work", "input": input, **more}


def ref(name: str) -> dict[str, Any]:
    return {"$step": name}


async def drive(lab: Lab, run: RunId, outputs: dict[str, Any], failing: tuple[str, ...] = ()) -> None:
    """Answer its tasks one by one until it is over."""
    waiting: list[Task] = []
    while run in lab.shard.session.state.runs:
        waiting += await lab.take(timeout_s=0.1)
        if waiting:
            task = waiting.pop(0)
            failure = Failure(ErrorCode.INVALID_INPUT, "no") if task.step_id in failing else None
            await lab.finish(task, output=outputs.get(task.step_id, 1), failure=failure)
    await lab.ended(run)


async def events(lab: Lab, run: RunId) -> list[api.RunEvent]:
    return (await lab.ask(api.GetEvents(run), api.Events)).events


def derived(told: list[api.RunEvent]) -> Told:
    """Steps with what became of them: needed and ready, and the starts and ends among them."""
    found: Told = []
    for event in told:
        if event.kind == "steps_needed":
            found.append(("needed", json.loads(event.data)["steps"]))
        elif event.kind.startswith("step_"):
            found.append((event.kind.removeprefix("step_"), event.step_id))
    return found


@virtual
async def test_a_chain_is_needed_at_once_and_ready_one_by_one() -> None:
    lab = await Lab().start()
    run = await lab.submit({"steps": [work("a"), work("unused"), work("b", ref("a"))], "output": ref("b")})
    await drive(lab, run, {})
    told = await events(lab, run)
    assert derived(told) == [
        ("needed", ["a", "b"]), ("ready", "a"), ("started", "a"), ("completed", "a"), ("ready", "b"), ("started", "b"), ("completed", "b"),
    ]  # fmt: skip
    ready = [event for event in told if event.kind == "step_ready"]
    assert [(event.item, json.loads(event.data)) for event in ready] == [(0, {"step": 0}), (0, {"step": 2})]
    await lab.stop()


@virtual
async def test_only_the_branch_that_is_taken_becomes_needed() -> None:
    lab = await Lab().start()
    output = {"$if": ref("which"), "then": ref("yes"), "else": ref("no")}
    run = await lab.submit({"steps": [work("which"), work("yes"), work("no")], "output": output})
    await drive(lab, run, {"which": False})
    assert derived(await events(lab, run)) == [
        ("needed", ["which"]), ("ready", "which"), ("started", "which"),
        ("completed", "which"), ("needed", ["no"]), ("ready", "no"), ("started", "no"), ("completed", "no"),
    ]  # fmt: skip
    await lab.stop()


@virtual
async def test_a_default_needs_its_steps_only_when_it_is_used() -> None:
    lab = await Lab().start()
    fallback = {"action": "useDefault", "defaultValue": ref("spare")}
    run = await lab.submit({"steps": [work("spare"), work("bad", onError=fallback), work("last", ref("bad"))], "output": ref("last")})
    await drive(lab, run, {}, failing=("bad",))
    assert derived(await events(lab, run)) == [
        ("needed", ["bad", "last"]), ("ready", "bad"), ("started", "bad"),
        ("falling_back", "bad"), ("needed", ["spare"]), ("ready", "spare"), ("started", "spare"), ("completed", "spare"),
        ("defaulted", "bad"), ("ready", "last"), ("started", "last"), ("completed", "last"),
    ]  # fmt: skip
    await lab.stop()


@virtual
async def test_steps_wait_for_slots_after_they_are_ready_and_must_execute_is_needed() -> None:
    lab = await Lab().start()
    flow = {"steps": [work("a"), work("b"), work("c", skip=True, mustExecute=True)], "output": [ref("a"), ref("b")]}
    run = await lab.submit(flow, max_concurrency=1)
    await drive(lab, run, {})
    told = derived(await events(lab, run))
    assert told[0] == ("needed", ["a", "b", "c"])
    assert {step for kind, step in told[:4] if kind == "ready"} == {"a", "b", "c"}
    assert ("skipped", "c") in told
    await lab.stop()


@virtual
async def test_an_item_whose_input_is_refused_needs_nothing() -> None:
    lab = await Lab().start()
    inner = {**ONE_STEP, "schemas": {"type": "object", "properties": {"input": {"type": "string"}}}}
    steps = [{"id": "m", "component": "/builtin/map", "input": {"items": [1], "workflow": {"$literal": inner}}}]
    run = await lab.submit({"steps": steps, "output": ref("m")})
    await lab.ended(run)
    told = await events(lab, run)
    assert [event.run for event in told if event.kind == "steps_needed"] == [run]
    await lab.stop()


@virtual
async def test_the_data_of_events_names_flow_items_parent_status_and_result() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [5])
    (task,) = await lab.take()
    await lab.finish(task, output={"n": 2**60})
    await lab.ended(run)
    told = await events(lab, run)
    created, child = [(event.run, json.loads(event.data)) for event in told if event.kind == "run_created"]
    assert created == (run, {"flow_id": (await lab.ask(api.GetRun(run), api.RunInfo)).summary.flow, "items": 1})
    assert (child[1]["parent_run_id"], child[1]["flow_id"], child[1]["items"]) == (run, task.flow, 1)
    ends = {(event.run, event.kind): json.loads(event.data) for event in told}
    assert ends[child[0], "step_started"] == {"step": 0, "attempt": 1}
    assert ends[child[0], "step_completed"] == {"step": 0, "status": "success", "result": {"n": 2**60}}
    assert ends[child[0], "item_completed"] == {"outcome": "success", "result": {"n": 2**60}}
    assert ends[run, "run_completed"] == {"status": "completed"}
    await lab.stop()


@virtual
async def test_followers_of_one_run_share_their_reading() -> None:
    lab = await Lab().start()
    run = await lab.submit({"steps": [work("a"), work("b", ref("a"))], "output": ref("b")})
    story = Story(lab)
    row = await story.row(run)
    after = (await story.history.page(row, 0, 1_000, 10**6)).events[-1].position
    await lab.finish(*await lab.take())
    await lab.take()
    story.reads.clear()
    pages = await asyncio.gather(*(story.history.page(row, after, 1_000, 10**6) for _ in range(5)))
    assert pages[0].events
    assert all(page == pages[0] for page in pages)
    assert await story.history.page(row, after, 1_000, 10**6) == pages[0]
    assert len(story.reads) == 1
    await lab.stop()


# --- steps as they were ---


@virtual
async def test_steps_are_shown_as_they_were_at_every_position() -> None:
    lab = await Lab().start()
    run = await lab.submit({"steps": [work("a"), work("b", ref("a"))], "output": ref("b")}, 1, 2, max_concurrency=1)
    await drive(lab, run, {"a": 7})
    told = await events(lab, run)

    async def at(position: int, **more: Any) -> list[tuple[int, str, str, int]]:
        steps = (await lab.ask(api.GetSteps(run, as_of=position, **more), api.Steps)).steps
        return [(step.item, step.step_id, step.status, step.position) for step in steps]

    expected: dict[tuple[int, str], tuple[str, int]] = {}
    for event in told:
        if event.kind == "step_started":
            expected[event.item or 0, event.step_id or ""] = ("running", event.position)
        elif event.kind == "step_completed":
            expected[event.item or 0, event.step_id or ""] = ("success", event.position)
        recorded = [(item, step, status, where) for item, step, status, where in await at(event.position) if status != "queued"]
        assert recorded == [(*key, *expected[key]) for key in sorted(expected)], event
    last = told[-1].position
    now = (await lab.ask(api.GetSteps(run), api.Steps)).steps
    assert (await lab.ask(api.GetSteps(run, as_of=last), api.Steps)).steps == now
    assert await at(last + 10**9) == await at(last)
    assert [item for item, *_ in await at(last, item=1)] == [1, 1]
    assert await at(0) == []
    first = next(event.position for event in told if event.kind == "step_completed")
    (step, *_) = (await lab.ask(api.GetSteps(run, 0, as_of=first), api.Steps)).steps
    assert (step.output, step.finished_ms is not None) == (b"7", True)
    await lab.stop()


@virtual
async def test_the_past_of_a_live_run_with_sub_runs_is_shown_too() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [1, 2])
    await until(lambda: len(lab.shard.session.state.runs) == 2)
    told = await events(lab, run)
    child = next(event for event in told if event.kind == "run_created" and event.run != run)
    before, after = [
        [(step.step_id, step.status) for step in (await lab.ask(api.GetSteps(run, as_of=position), api.Steps)).steps]
        for position in (child.position - 1, child.position)
    ]
    assert (before, after) == ([("m", "queued")], [("m", "child")])
    inner = (await lab.ask(api.GetSteps(child.run, as_of=told[-1].position), api.Steps)).steps
    assert [(step.item, step.step_id, step.status) for step in inner] == [(0, "x", "running"), (1, "x", "running")]
    assert (await lab.ask(api.GetSteps(RunId("unknown"), as_of=1), Refused)).code == "SM-5003"
    await lab.stop()


@virtual
async def test_a_run_whose_flow_was_deleted_is_told_without_the_names_of_its_steps() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [1])
    await drive(lab, run, {})
    whole = await events(lab, run)
    await lab.ask(api.DeleteFlow((await lab.ask(api.GetRun(run), api.RunInfo)).summary.flow), api.Deleted)
    await lab.restart()
    told = await events(lab, run)
    journaled = [event for event in whole if event.kind not in ("steps_needed", "step_ready") or event.run != run]
    assert [(event.kind, event.position) for event in told] == [(event.kind, event.position) for event in journaled]
    assert {event.step_id for event in told if event.run == run} == {None}
    assert {event.step_id for event in told if event.run != run} == {None, "x"}
    await lab.stop()


@virtual
async def test_pages_of_steps_never_cut_an_item() -> None:
    lab = await Lab().start()
    run = await lab.submit({"steps": [work("a"), work("b")], "output": [ref("a"), ref("b")]}, 1, 2, 3, max_concurrency=0)
    await drive(lab, run, {"a": "x" * 200_000, "b": "x" * 200_000})
    seen: list[tuple[int, str]] = []
    more, first = True, 0
    while more:
        page = await lab.ask(api.GetSteps(run, first=first), api.Steps)
        seen += [(step.item, step.step_id) for step in page.steps]
        more, first = page.more, page.steps[-1].item + 1
    assert seen == [(item, step) for item in range(3) for step in ("a", "b")]
    await lab.stop()
