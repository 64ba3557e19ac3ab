"""SM-1050: who runs a workflow hears once that its history comes near to its limit, when it does, and not at every replay of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import run_virtual

from stepmesh import App, wf
from stepmesh.durable import endings
from stepmesh.durable.endings import HistoryTooLong, Warned
from stepmesh.durable.limits import Limits
from stepmesh.durable.rehearsal import replay
from stepmesh.durable.testing import env

WARN = 20
LIMITS = Limits(history_warn=WARN, history_most=60)
app = App("long")


@app.workflow
async def loops(rounds: int) -> int:
    for number in range(rounds):
        await wf.run("poll", lambda number: number, number)
    return rounds


@app.workflow
async def many_events(count: int) -> int:
    """Most records are results that the body asks for nothing after."""
    await asyncio.gather(*(wf.wait_for_event("go", f"{number}") for number in range(count)))
    return count


@app.workflow
async def anew(left: int) -> int:
    for _ in range(12):
        await wf.run("poll", lambda: 1)
    if left:
        wf.continue_as_new(left - 1)
    return left


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(endings.log, "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.asyncio
@pytest.mark.parametrize("always_replay", [True, False])
@pytest.mark.parametrize(("rounds", "lines"), [(WARN // 2, 0), (WARN // 2 + 1, 1), (WARN, 1)])
async def test_it_is_told_once_however_often_it_is_replayed(said: list[str], rounds: int, lines: int, always_replay: bool) -> None:
    async with env(app, always_replay=always_replay, limits=LIMITS) as t:
        run = await t.start(loops, rounds)
        assert await run.result() == rounds
        t.crash_at_every_record(run)
    assert len(said) == lines
    assert all("has 21 records, near the limit of 60; most of them: poll ×11" in line for line in said)


@pytest.mark.asyncio
async def test_what_was_there_already_is_not_told_by_who_replays_it(said: list[str]) -> None:
    async with env(app, always_replay=False, limits=Limits()) as t:
        run = await t.start(loops, 1_500)
        await run.result()
    assert len(said) == 1
    assert replay(loops, run.history) is None, "another process, with the usual limits"
    assert len(said) == 1


@pytest.mark.asyncio
async def test_results_that_nothing_follows_are_told_once_too(said: list[str]) -> None:
    async with env(app, limits=LIMITS) as t:
        run = await t.start(many_events, 15)
        for number in range(15):
            await t.send("go", key=f"{number}")
        assert await run.result() == 15
    (line,) = said
    assert "has 21 records" in line


@pytest.mark.asyncio
async def test_each_round_of_a_body_that_begins_anew_has_a_line_of_its_own(said: list[str]) -> None:
    async with env(app, limits=LIMITS) as t:
        assert await (await t.start(anew, 2)).result() == 0
    assert len(said) == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [24, 23])
async def test_the_hard_limit_holds_in_a_replay(limit: int) -> None:
    async with env(app, limits=Limits(history_most=limit)) as t:
        run = await t.start(loops, 12)
        if limit == 24:
            assert await run.result() == 12
            return
        with pytest.raises(HistoryTooLong, match="has 24 records, above the limit of 23"):
            await run.result()


def test_a_process_remembers_the_latest_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_REMEMBERED", 2)
    warned = Warned()
    assert warned.first(("a", 1))
    assert warned.first(("b", 1))
    assert not warned.first(("a", 1))
    assert warned.first(("a", 2)), "another round"
    assert warned.first(("a", 1)), "two are remembered"


async def deployed() -> None:
    world = World()
    await world.start_node()
    client = await world.client()
    await world.employ(app.worker(live_functions=0, limits=LIMITS, concurrency=4))
    flow = {"steps": [{"id": "many", "component": "/long/many_events", "input": 15}], "output": {"$step": "many"}}
    run = await client.submit(flow, [None])
    for number in range(15):
        await asyncio.sleep(1)
        await client.events.send("go", key=f"{number}", id=f"go{number}")
    await run.wait(timeout=60)
    await world.close()


def test_a_worker_that_replays_each_activation_tells_it_once(said: list[str]) -> None:
    run_virtual(deployed(), limit_s=3_600)
    (line,) = said
    assert "near the limit of 60" in line
