"""What was done in sub-runs of a step that did not end is not done again: the new run's sub-runs begin with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.unit.orchestrator.runtime.lab import Lab, virtual

from stepmesh.client import Client
from stepmesh.run_control import Changes, RunControl
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.runtime import continuing

NO = Failure(ErrorCode.INVALID_INPUT, "no")
BODY = {
    "name": "body",
    "steps": [
        {"id": "paid", "component": "/py/work", "input": {"$input": "$"}},
        {"id": "after", "component": "/py/work", "input": {"$step": "paid"}},
    ],
    "output": {"$step": "after"},
}
MAP = {
    "name": "mapped",
    "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": {"$input": "$"}, "workflow": {"$literal": BODY}}}],
    "output": {"$step": "m", "path": "results"},
}
LOOP = {
    "name": "loop",
    "steps": [
        {"id": "paid", "component": "/py/work", "input": {"$input": "$"}},
        {"id": "check", "component": "/py/work", "input": {"$step": "paid"}},
    ],
    "output": {"$step": "check"},
}
ITERATE = {
    "name": "iterated",
    "steps": [{"id": "i", "component": "/builtin/iterate", "input": {"initial_input": {"$input": "$"}, "flow": {"$literal": LOOP}}}],
    "output": {"$step": "i"},
}
EVAL = {
    "name": "evaluated",
    "steps": [{"id": "e", "component": "/builtin/eval", "input": {"input": {"$input": "$"}, "flow": {"$literal": MAP}}}],
    "output": {"$step": "e", "path": "result"},
}


def control(lab: Lab) -> RunControl:
    return Client(lab.client, patience_s=5.0).control


async def answer(lab: Lab, run: str, said: Callable[[str, Any], Any], until: int = 1_000) -> list[tuple[str, Any]]:
    """Answer `until` tasks of the tree, or until it is over. `said(step, input)`: the output, or a failure. The calls, in their order."""
    calls: list[tuple[str, Any]] = []
    while len(calls) < until and run in lab.shard.session.state.runs:
        for task in await lab.take(timeout_s=0.1):
            if (task.root or task.run) == run and len(calls) < until:
                calls.append((task.step_id, json.loads(task.input)))
                output = said(*calls[-1])
                failure = output if isinstance(output, Failure) else None
                await lab.finish(task, output=None if failure else output, failure=failure)
    return calls


def same(step: str, value: Any) -> Any:
    return value


async def results(lab: Lab, run: str) -> list[Any]:
    info = await lab.ended(RunId(run))
    return [json.loads(item.result)["result"] for item in info.results]


@virtual
async def test_a_map_that_was_stopped_on_its_way_goes_on_where_it_was() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, ["a", "b", "c"], max_concurrency=1)
    assert await answer(lab, run, same, until=3) == [("paid", "a"), ("after", "a"), ("paid", "b")]
    await Client(lab.client).cancel(run)

    found = await control(lab).retry(run)

    assert found.reused == 3
    assert await answer(lab, found.run, same) == [("after", "b"), ("paid", "c"), ("after", "c")]
    assert [one["result"] for one in (await results(lab, found.run))[0]] == ["a", "b", "c"]


@virtual
async def test_a_live_map_is_forked_with_what_it_has() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, ["a", "b"], max_concurrency=1)
    await answer(lab, run, same, until=3)
    while not any(item.outcomes[0] for live in lab.shard.session.state.runs.values() for item in live.items.values() if item.index == 1):
        await lab.take(timeout_s=0.1)
    found = await control(lab).fork(run)
    assert found.reused == 3
    await Client(lab.client).cancel(run)
    assert await answer(lab, found.run, same) == [("after", "b")]


def loop(step: str, value: Any) -> Any:
    """Three iterations: the third one's check fails."""
    if step == "paid":
        return value + 1
    return NO if value == 3 else {"next": value}


@virtual
async def test_iterations_that_ended_are_not_run_again() -> None:
    lab = await Lab().start()
    run = await lab.submit(ITERATE, 0)
    calls = await answer(lab, run, loop)
    assert calls == [("paid", 0), ("check", 1), ("paid", 1), ("check", 2), ("paid", 2), ("check", 3)]
    assert (await lab.ended(run)).summary.status == "failed"

    found = await control(lab).retry(run)
    await lab.restart()

    assert found.reused == 5
    assert await answer(lab, found.run, lambda step, value: {"result": value}, until=1) == [("check", 3)]
    assert await results(lab, found.run) == [{"result": 3, "iterations": 3, "terminated": False}]
    again = await control(lab).retry(run)
    assert await answer(lab, again.run, loop) == [("check", 3)]
    third = await control(lab).retry(again.run)
    assert await answer(lab, third.run, lambda step, value: {"result": value}) == [("check", 3)], "a retry of a retry"


@virtual
async def test_sub_runs_of_sub_runs_too() -> None:
    lab = await Lab().start()
    run = await lab.submit(EVAL, ["a", "b"], max_concurrency=1)
    await answer(lab, run, same, until=3)
    await Client(lab.client).cancel(run)
    found = await control(lab).retry(run)
    assert found.reused == 3
    assert await answer(lab, found.run, same) == [("after", "b")]


@virtual
async def test_only_what_works_on_the_same_is_taken_over() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, ["a", "b"], max_concurrency=1)
    await answer(lab, run, same, until=3)
    await Client(lab.client).cancel(run)
    one = control(lab)
    whole = [("paid", "a"), ("after", "a"), ("paid", "b"), ("after", "b")]
    other = await one.fork(run, changes=Changes(inputs=[["x", "b"]]))
    assert await answer(lab, other.run, same) == [("paid", "x"), ("after", "x"), ("after", "b")]
    variables = await one.fork(run, changes=Changes(variables={"v": 1}))
    assert await answer(lab, variables.run, same) == whole
    again = await one.fork(run, from_step="m")
    assert again.reused == 0
    assert await answer(lab, again.run, same) == whole


@pytest.mark.parametrize(("limit", "passes"), [(18, True), (17, False)])
def test_their_inputs_and_results_count(monkeypatch: pytest.MonkeyPatch, limit: int, passes: bool) -> None:
    monkeypatch.setattr(continuing, "MAX_BYTES", limit)

    @virtual
    async def story() -> None:
        lab = await Lab().start()
        run = await lab.submit(MAP, ["a", "b"], max_concurrency=1)  # 9 bytes, and 3 for each of its parts
        await answer(lab, run, same, until=1)
        await Client(lab.client).cancel(run)
        if passes:
            assert (await control(lab).retry(run)).reused == 1
        else:
            with pytest.raises(Exception, match="SM-5228"):
                await control(lab).retry(run)

    story()


@virtual
async def test_events_of_a_sub_run_tell_of_it() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, ["a", "b"], max_concurrency=1)
    await answer(lab, run, same, until=3)
    await Client(lab.client).cancel(run)
    found = await control(lab).retry(run)
    await answer(lab, found.run, same)
    await lab.ended(RunId(found.run))
    told = (await lab.ask(api.GetEvents(RunId(found.run)), api.Events)).events
    child = next(event.run for event in told if event.run != found.run)
    reused = [(event.item, event.step_id) for event in told if event.kind == "step_reused"]
    assert reused == [(0, "paid"), (0, "after"), (1, "paid")]
    own = (await lab.ask(api.GetEvents(child), api.Events)).events
    assert [msgspec.json.decode(event.data)["source"] for event in own if event.kind == "run_seeded"] != []
    assert [(event.item, event.step_id) for event in own if event.kind == "step_reused"] == reused
