"""Workflows that may take only so long, and that tell somebody when they fail."""

from __future__ import annotations

from typing import Any

import pytest

from stepmesh import App, FailedRun
from stepmesh.durable import wf
from stepmesh.durable.durations import BadDuration
from stepmesh.durable.errors import BadWorkflow, Fatal
from stepmesh.durable.testing import env
from stepmesh.errors import Cancelled

app = App("patient")
told: list[FailedRun] = []
undone: list[str] = []


@app.step
async def tell(failed: FailedRun) -> None:
    told.append(failed)


@app.step
async def undo(what: str) -> None:
    undone.append(what)


@app.workflow(timeout="3d", on_failure=tell)
async def wait(days: int) -> str:
    async with wf.saga() as saga:
        saga.undo(undo, "booking")
        await wf.sleep(f"{days}d")
    return f"{days} days"


@app.workflow(on_failure=tell)
async def fail(message: str) -> None:
    raise Fatal(message)


@pytest.fixture(autouse=True)
def _anew() -> None:
    told.clear()
    undone.clear()


async def test_a_body_that_is_over_in_time_is_as_any_other() -> None:
    async with env(app) as t:
        run = await t.start(wait, 2)
        assert await run.result() == "2 days"
        t.crash_at_every_record(run)
    assert (told, undone) == ([], [])


@app.workflow(timeout="10s")
async def undoes(seconds: int) -> None:
    async def slowly(what: str) -> None:
        await wf.sleep(seconds)
        await undo(what)

    async with wf.saga() as saga:
        saga.undo(undo, "booking")
        saga.undo(slowly, "payment")
        await wf.sleep("5s")
        raise Fatal("no room")


@pytest.mark.parametrize("always_replay", [True, False])
@pytest.mark.parametrize("seconds", [4, 6])
async def test_what_is_being_undone_when_the_time_is_over_is_undone_to_the_end(seconds: int, always_replay: bool) -> None:
    async with env(app, always_replay=always_replay) as t:
        run = await t.start(undoes, seconds)
        with pytest.raises(Fatal, match="no room"):
            await run.result()
        assert undone == ["payment", "booking"]
        t.crash_at_every_record(run)


@app.workflow(timeout="10s")
async def shielded(_: None) -> str:
    async with wf.shield():
        await wf.sleep("20s")
        await undo("in the shield")
    await undo("behind the shield")
    return "too late"


async def test_a_time_that_ran_out_in_a_shield_ends_the_body_behind_it() -> None:
    async with env(app) as t:
        run = await t.start(shielded)
        with pytest.raises(TimeoutError, match="the workflow shielded was not over within 10s"):
            await run.result()
        assert undone == ["in the shield"]
        t.crash_at_every_record(run)


async def test_one_that_takes_longer_cleans_up_tells_and_fails() -> None:
    async with env(app) as t:
        run = await t.start(wait, 4)
        with pytest.raises(TimeoutError, match="the workflow wait was not over within 3d"):
            await run.result()
        t.crash_at_every_record(run)
        t.assert_history(run, ["timer", "sleep", "undo", "tell"])
    assert undone == ["booking"]
    assert told == [FailedRun(run.id, "wait", "TimeoutError", "the workflow wait was not over within 3d")]


async def test_a_time_limit_within_the_body_is_its_own() -> None:
    @app.workflow(name="inner", timeout="3d")
    async def inner() -> None:
        raise TimeoutError("of a call")

    async with env(app) as t:
        with pytest.raises(TimeoutError, match="of a call"):
            await (await t.start(inner)).result()


async def test_a_failure_is_told_once_and_stays_what_it_is() -> None:
    async with env(app) as t:
        run = await t.start(fail, "no stock")
        with pytest.raises(Fatal, match="no stock"):
            await run.result()
        t.crash_at_every_record(run)
    assert told == [FailedRun(run.id, "fail", "Fatal", "no stock")]


async def test_who_cannot_be_told_changes_nothing() -> None:
    async with env(app) as t:
        t.fail(tell, times=1, error=Fatal("away"))
        run = await t.start(fail, "no stock")
        with pytest.raises(Fatal, match="no stock") as problem:
            await run.result()
    assert problem.value.__notes__ == ["on_failure failed, too: tell failed after 1 attempt: away"]


async def test_a_cancelled_run_did_not_fail() -> None:
    async with env(app) as t:
        run = await t.start(wait, 2)
        await t.skip(run, "1h")
        await t.cancel(run, "by hand")
        with pytest.raises(Cancelled):
            await run.result()
    assert (told, undone) == ([], ["booking"])


@pytest.mark.parametrize(("options", "error"), [({"timeout": "soon"}, BadDuration), ({"on_failure": 7}, BadWorkflow)])
def test_what_makes_no_sense_is_refused_where_it_is_declared(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        app.workflow(**options)
