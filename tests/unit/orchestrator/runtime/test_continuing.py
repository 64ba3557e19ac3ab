"""Retries and forks over a real shard: what runs again, what the new run is linked to, what is refused; and actions on many runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import Lab, run_id, until, virtual

from stepmesh import bulk
from stepmesh.bulk import Bulk, RunFilter
from stepmesh.client import Client
from stepmesh.errors import RequestRefused, RunNotFound
from stepmesh.run_control import Changes
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.runtime import continuing

NO = Failure(ErrorCode.INVALID_INPUT, "no")


def work(name: str, input: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": name, "component": "/py/work", "input": input, **more}


def ref(name: str) -> dict[str, Any]:
    return {"$step": name}


TWO = {"name": "two", "steps": [work("a", {"$input": "$"}), work("b", ref("a"))], "output": ref("b")}


async def drive(lab: Lab, run: str, failing: dict[str, list[int]] | None = None) -> list[tuple[str, int]]:
    """Answer its tasks until it is over: `b` gives `[input]`, all else its input. The tasks, by step and item."""
    done: list[tuple[str, int]] = []
    while run in lab.shard.session.state.runs:
        for task in await lab.take(timeout_s=0.1):
            if task.run != run:  # of a run that was cancelled
                continue
            done.append((task.step_id, task.item))
            fails = task.item in (failing or {}).get(task.step_id, [])
            output = [bytes(task.input).decode()] if task.step_id == "b" else task.item
            await lab.finish(task, output=output, failure=NO if fails else None)
    await lab.ended(RunId(run))
    return sorted(done)


async def failed_run(lab: Lab, *inputs: Any, failing: tuple[int, ...] = (1,)) -> str:
    run = await lab.submit(TWO, *inputs, tags={"team": "search"})
    await drive(lab, run, {"b": list(failing)})
    return run


def control(lab: Lab) -> Client:
    return Client(lab.client, patience_s=5.0)


async def refused(work_: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as problem:
        await work_
    assert problem.value.hint
    return problem.value


@virtual
async def test_a_retry_runs_only_what_failed_of_the_items_that_failed() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, 20, 30)

    found = await control(lab).control.retry(source)

    assert (found.items, found.reused, found.existing) == ([1], 1, False)
    assert await drive(lab, found.run) == [("b", 0)]
    info = await lab.ended(found.run)
    assert (info.summary.status, info.summary.total) == ("completed", 1)
    assert info.summary.tags == {"team": "search", "retry_of": source}
    assert (await lab.ended(RunId(source))).summary.status == "failed"
    first = (await lab.ask(api.GetSteps(found.run), api.Steps)).steps[0]
    assert (first.step_id, first.status, first.attempt, first.output) == ("a", "success", 0, b"1")
    events = (await lab.ask(api.GetEvents(found.run), api.Events)).events
    assert [event.step_id for event in events if event.kind == "step_reused"] == ["a"]
    assert [event.kind for event in events][:2] == ["run_created", "run_seeded"]


@virtual
async def test_a_cancelled_run_is_retried_with_the_items_that_never_began() -> None:
    lab = await Lab().start()
    run = await lab.submit(TWO, 1, 2, 3, max_concurrency=1)
    (task,) = await lab.take()
    await lab.finish(task, output=0)
    await lab.take()
    await control(lab).cancel(run)

    found = await control(lab).control.retry(run)

    assert (found.items, found.reused) == ([0, 1, 2], 1)
    assert await drive(lab, found.run) == [("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]


@virtual
async def test_the_same_request_gives_the_same_run() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, 20)
    first = await control(lab).control.retry(source, key="k")
    again = await control(lab).control.retry(source, key="k")
    assert (again.run, again.existing) == (first.run, True)
    other = await control(lab).control.retry(source, key="l")
    assert other.run != first.run


@virtual
async def test_a_fork_begins_at_a_step() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, 20, failing=())
    found = await control(lab).control.fork(source, from_step="b")
    assert await drive(lab, found.run) == [("b", 0), ("b", 1)]
    assert (await lab.ended(found.run)).summary.tags == {"team": "search", "forked_from": source}
    whole = await control(lab).control.fork(source)
    assert await drive(lab, whole.run) == []
    assert whole.reused == 4


@virtual
async def test_a_fork_of_chosen_items_on_other_inputs() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, 20, 30, failing=())
    found = await control(lab).control.fork(source, items=[2, 0], changes=Changes(inputs=[30, 11], tags={"why": "typo"}))
    assert (found.items, found.reused) == ([2, 0], 2)
    assert await drive(lab, found.run) == [("a", 1), ("b", 1)]
    assert (await lab.ended(found.run)).summary.tags == {"team": "search", "why": "typo", "forked_from": source}


def test_an_answer_names_only_so_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuing, "PAGE", 2)

    @virtual
    async def story() -> None:
        lab = await Lab().start()
        source = await failed_run(lab, 1, 2, 3, failing=())
        found = await control(lab).control.fork(source)
        assert (found.items, found.reused) == ([0, 1], 6)
        assert (await lab.ended(found.run)).summary.total == 3

    story()


@virtual
async def test_a_fork_with_another_flow() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, failing=(0,))
    longer = {**TWO, "steps": [*TWO["steps"], work("c", ref("b"))], "output": ref("c")}
    found = await control(lab).control.fork(source, changes=Changes(flow=longer))
    assert await drive(lab, found.run) == [("b", 0), ("c", 0)]


@virtual
async def test_a_fork_of_a_run_that_still_runs() -> None:
    lab = await Lab().start()
    run = await lab.submit(TWO, 1, 2)
    tasks = await lab.take()
    await lab.finish(next(task for task in tasks if task.item == 1), output=1)
    await until(lambda: lab.shard.session.state.runs[run].items[1].outcomes[0] is not None)

    found = await control(lab).control.fork(run)

    assert (found.items, found.reused) == ([0, 1], 1)
    await lab.take(timeout_s=0.1)
    await control(lab).cancel(run)


@virtual
async def test_it_survives_a_crash_with_its_seeds() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, 20, failing=(0, 1))
    found = await control(lab).control.retry(source)
    await lab.restart()
    done = await drive(lab, found.run)
    assert set(done) == {("b", 0), ("b", 1)}
    assert (await lab.ended(found.run)).summary.status == "completed"


@virtual
async def test_what_is_refused() -> None:
    lab = await Lab().start()
    one = control(lab).control
    good = await failed_run(lab, 10, failing=())
    bad = await failed_run(lab, 10, 20)
    live = await lab.submit(TWO, 1)
    assert (await refused(one.retry(live))).code == "SM-5223"
    assert (await refused(one.retry(good))).code == "SM-5224"
    assert (await refused(one.retry(bad, items=[0]))).code == "SM-5224"
    unknown = await refused(one.fork(good, from_step="bb"))
    assert (unknown.code, unknown.hint) == ("SM-5226", "did you mean `b`?")
    for items in ([2], [-1], [0, 0]):
        assert (await refused(one.fork(bad, items=items))).code == "SM-5227"
    assert (await refused(one.fork(bad, changes=Changes(inputs=[1])))).code == "SM-5227"
    assert (await refused(one.fork(good, changes=Changes(flow="0" * 64)))).code == "SM-5004"
    assert (await refused(one.fork(good, changes=Changes(overrides={"zz": {}})))).code == "SM-2040"
    assert (await refused(one.fork(good, changes=Changes(variables=[1])))).code == "SM-5001"
    with pytest.raises(RunNotFound):
        await one.retry(run_id(99))
    await control(lab).cancel(live)


@virtual
async def test_a_run_whose_beginning_was_trimmed_is_not_retried() -> None:
    lab = await Lab().start()
    source = await failed_run(lab, 10, failing=(0,))
    await lab.shard.snapshot()
    frame = lab.shard.sequence
    assert (await control(lab).control.fork(source)).reused == 1
    await lab.journal.trim(Partition(0), frame)
    assert (await refused(control(lab).control.retry(source))).code == "SM-5225"


@virtual
async def test_a_sub_run_goes_on_with_its_root() -> None:
    lab = await Lab().start()
    inner = {"steps": [work("w")], "output": ref("w")}
    run = await lab.submit({"steps": [{"id": "e", "component": "/builtin/eval", "input": {"flow": {"$literal": inner}}}]}, 1)
    mapped = {"steps": [{"id": "e", "component": "/builtin/eval", "input": {"flow": {"$literal": inner}}}], "output": ref("e")}
    run = await lab.submit(mapped, 1)
    (task,) = await lab.take()
    assert (await refused(control(lab).control.fork(task.run))).code == "SM-5222"
    await control(lab).cancel(run)


@pytest.mark.parametrize(("limit", "passes"), [(9, True), (8, False)])
def test_what_is_taken_over_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: int, passes: bool) -> None:
    monkeypatch.setattr(continuing, "MAX_BYTES", limit)

    @virtual
    async def story() -> None:
        lab = await Lab().start()
        source = await failed_run(lab, "abcdef", failing=(0,))  # 8 bytes, and 1 of the result of `a`
        if passes:
            await control(lab).control.retry(source)
        else:
            assert (await refused(control(lab).control.retry(source))).code == "SM-5228"

    story()


# --- many runs --------------------------------------------------------------------------------------------------


@virtual
async def test_nothing_is_done_without_a_filter() -> None:
    lab = await Lab().start()
    many = Bulk(control(lab).requests)
    for named, wanted in ((None, None), ([], None), (None, RunFilter()), (["r"], RunFilter(status="failed")), (["r"], RunFilter())):
        assert (await refused(many.chosen(named, wanted))).code == "SM-5230"
    assert await many.chosen(["r", "s", "r"], None) == ["r", "s"]


@virtual
async def test_a_filter_finds_root_runs_by_status_flow_and_tags() -> None:
    lab = await Lab().start()
    many = Bulk(control(lab).requests)
    live = [await lab.submit(TWO, 1, tags={"team": team, "kind": "x"}) for team in ("a", "b", "a")]
    await lab.submit({**TWO, "name": "other"}, 1, tags={"team": "a"})
    found = await many.chosen(None, RunFilter(status="running", flow_name="two", tags={"team": "a"}))
    assert set(found) == {live[0], live[2]}
    assert await many.chosen(None, RunFilter(status="failed")) == []


@virtual
async def test_each_run_is_answered_for() -> None:
    lab = await Lab().start()
    many = Bulk(control(lab).requests)
    over = await failed_run(lab, 1, failing=(0,))
    live = [await lab.submit(TWO, number) for number in range(40)]
    outcomes = [one async for one in many.act("pause", [*live, over, run_id(999)])]
    assert [one.run for one in outcomes] == [*live, over, run_id(999)]
    assert [one for one in outcomes[:40] if not one.done] == []
    assert [one.code for one in outcomes[40:]] == ["SM-5221", "SM-5003"]
    assert set(await many.chosen(None, RunFilter(status="paused"))) == set(live)
    assert all([one.done async for one in many.act("resume", live)])
    assert all([one.done async for one in many.act("cancel", live)])
    (again,) = [one async for one in many.act("retry", [over])]
    assert again.new is not None
    assert await drive(lab, again.new) == [("b", 0)]
    assert all([one.done async for one in many.act("delete", live)])
    assert await many.chosen(None, RunFilter(status="cancelled")) == []


def test_a_listing_of_many_pages_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE", 2)

    @virtual
    async def story() -> None:
        lab = await Lab().start()
        live = [await lab.submit(TWO, number) for number in range(5)]
        assert await Bulk(control(lab).requests).chosen(None, RunFilter(status="running")) == live[::-1]

    story()


@virtual
async def test_wake_names_what_sleeps() -> None:
    lab = await Lab().start()
    nap = {"id": "s", "component": "/builtin/sleep", "input": {"duration": "1h"}}
    run = await lab.submit({"steps": [nap, {**nap, "id": "t"}], "output": [ref("s"), ref("t")]}, 1, 2)
    one = control(lab).control
    assert await one.wake(run, item=1, step="t") == ["t"]
    assert (await refused(one.wake(run, item=1, step="t"))).code == "SM-5229"
    assert sorted(await one.wake(run)) == ["s", "s", "t"]
    assert (await lab.ended(run)).summary.status == "completed"
    assert (await refused(one.wake(run))).code == "SM-5229"
