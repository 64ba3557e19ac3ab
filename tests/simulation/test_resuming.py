"""Runs of durable functions that somebody moves to another version of their code, or tries again, while both builds live; wherever the
orchestrator dies, no run goes back to the old version by itself, and nothing is recorded twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from tests.simulation.deployment_world import until
from tests.simulation.test_builds import AT_ONCE_S, FITS, OTHER, SAGA, Fleets, blocked, build, results
from tests.simulation.test_functions import CrashAt
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client
from stepmesh.bulk import Bulk, RunFilter
from stepmesh.client import RunHandle
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.errors import RequestRefused
from stepmesh_orchestrator.journal.memory import MemoryJournal

RUNS = 3
TICKS = 600
HOUR_S = 3_600.0


async def begin(client: Client) -> list[RunHandle]:
    """Runs that wait for their event."""
    runs = [await client.submit(SAGA, [f"{number}"]) for number in range(RUNS)]
    for run in runs:
        await wait_for(client, run, "waits for")
    return runs


async def wait_for(client: Client, run: RunHandle, text: str) -> None:
    while text not in " ".join(await client.explain(run.id)):
        await asyncio.sleep(0.1)


async def send(client: Client) -> None:
    for number in range(RUNS):
        await client.events.send("go", key=f"{number}", id=f"go{number}")


async def belongs_to(client: Client, run: RunHandle) -> str:
    """The declared version, as `explain` says it."""
    text = " ".join(await client.explain(run.id))
    return text.partition("it belongs to build ")[2].partition("+")[0]


async def blue_and_green(journal: MemoryJournal) -> Fleets:
    """To a version that does not fit, back, and to one that does; the old one's workers live all the time."""
    world = Fleets(journal)
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.deploy("red", OTHER)
    await world.deploy("green")
    for run in runs:
        await run.resume(version="red")
    assert "SM-1001 Replay diverged" in await blocked(client, runs), "told at once, not when its event comes"
    assert [await belongs_to(client, run) for run in runs] == ["red"] * RUNS
    await runs[0].resume(version="blue")
    await wait_for(client, runs[0], "waits for")
    for run in runs[1:]:
        await run.resume(version="green")
        await wait_for(client, run, "waits for")
    assert [await belongs_to(client, run) for run in runs] == ["blue", "green", "green"]
    await send(client)
    assert await results(runs) == [["blue", "blue"], ["blue", "green"], ["blue", "green"]]
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await world.end()
    return world


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_write_leaves_runs_with_the_version_that_was_chosen(when: str) -> None:
    counter = CrashAt()
    run_virtual(blue_and_green(MemoryJournal(before_append=counter)), limit_s=36_000)
    assert counter.calls > 20
    for at in range(1, counter.calls - 3):
        hook = CrashAt(at)
        journal = MemoryJournal(before_append=hook) if when == "before" else MemoryJournal(after_append=hook)
        assert run_virtual(blue_and_green(journal), limit_s=36_000).restarts == 1, f"nothing died at write {at}"


async def crossing_over() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.deploy("green")
    bulk = Bulk(client.requests)
    found = await bulk.chosen(None, RunFilter(status="running"))
    assert [one.done async for one in bulk.act("resume", found, version="green")] == [True] * RUNS
    with pytest.raises(ValueError, match="cancel takes no version"):
        _ = [one async for one in bulk.act("cancel", found, version="green")]
    await world.retire("blue")
    await world.deploy("blue")
    await send(client)
    assert await results(runs) == [["blue", "green"]] * RUNS, "all at once, and for good"
    told = [json.loads(event.data) async for event in runs[0].events() if event.kind == "function_resumed"]
    assert [(one["step"], one["version"].partition("+")[0]) for one in told] == [(0, "green")]
    with pytest.raises(RequestRefused, match="is over") as ended:
        await runs[0].resume(version="green")
    assert ended.value.code == "SM-5221"
    await world.end()


def test_many_runs_go_over_together_and_the_old_workers_are_drained() -> None:
    run_virtual(crossing_over(), limit_s=3_600)


async def refusals() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    await world.start("lame", build("green", FITS).worker(namespace=world.namespace))
    (run, *_) = await begin(client)
    with pytest.raises(RequestRefused, match=r"of /saga of pool py: blue\+\w+, green\+\w+ \(") as unknown:
        await run.resume(version="red")
    assert unknown.value.code == "SM-1095"
    with pytest.raises(RequestRefused) as empty:
        await run.resume(version=" ")
    assert empty.value.code == "SM-1098"
    assert (await run.resume()).existing
    await send(client)
    assert await results([run]) == [["blue", "blue"]]
    for handle in await client.list_runs():
        await client.handle(handle.run).wait()
    await world.end()


def test_a_version_that_nobody_has_is_refused_and_changes_nothing() -> None:
    run_virtual(refusals(), limit_s=3_600)


async def unheard() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    await world.deploy("green")
    (run, *_) = await begin(client)
    began = await belongs_to(client, run)
    other = "green" if began == "blue" else "blue"
    assert world.node is not None
    await world.node.abort()
    await world.start_node()
    await run.resume(version=other)
    await send(client)
    assert await results([run]) == [[began, other]], "its worker is heard within seconds of a restart"
    for handle in await client.list_runs():
        await client.handle(handle.run).wait()
    await world.end()


def test_an_orchestrator_that_has_not_heard_its_workers_yet_waits_for_them() -> None:
    run_virtual(unheard(), limit_s=3_600)


async def mended() -> None:
    """The version says nothing of the mend, which is outside of the body: no worker is news to the orchestrator."""
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.retire("blue")
    await world.deploy("green", OTHER)
    await send(client)
    assert "SM-1001 Replay diverged" in await blocked(client, runs)
    await asyncio.sleep(3_600)
    await world.start("mended", build("green", FITS).worker(concurrency=4, namespace=world.namespace))
    await asyncio.sleep(5)
    await world.retire("green")
    began = asyncio.get_running_loop().time()
    assert not (await runs[0].resume()).existing
    assert await results(runs[:1]) == [["blue", "green"]]
    assert asyncio.get_running_loop().time() < began + AT_ONCE_S, "the next try by itself would be minutes away"
    assert await results(runs) == [["blue", "green"]] * RUNS
    told = [json.loads(event.data) async for event in runs[0].events() if event.kind == "function_resumed"]
    assert told == [{"step": 0, "version": None}]
    await world.end()


def test_what_is_blocked_is_tried_again_at_once() -> None:
    run_virtual(mended(), limit_s=36_000)


# --- while a step is under way ----------------------------------------------------------------------------------------


def slow(version: str, done: Counter[str]) -> App:
    app = App("py")

    async def step(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        done[name] += 1
        return f"{name} by {version}"

    @app.workflow(version=version)
    async def saga(n: str) -> list[str]:
        first, second = await asyncio.gather(wf.run("first", step, "first", 20), wf.run("second", step, "second", 40))
        return [first, second, await wf.run("third", step, "third", 1)]

    return app


async def at_work(journal: MemoryJournal) -> Fleets:
    world, done = Fleets(journal), Counter[str]()
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    await world.start("blue", slow("blue", done).worker(namespace=world.namespace))
    run = await client.submit(SAGA, ["0"])
    await wait_for(client, run, "is with its pool")
    await asyncio.sleep(5)
    await world.start("green", slow("green", done).worker(namespace=world.namespace))
    await until(lambda: "green" in world.versions())
    await run.resume(version="green")
    assert await results([run]) == [["first by blue", "second by blue", "third by green"]]
    assert done == {"first": 1, "second": 1, "third": 1}, "what was paid for is not paid again"
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await world.end()
    return world


@pytest.mark.parametrize("when", ["before", "after"])
def test_steps_that_are_under_way_end_where_they_are(when: str) -> None:
    counter = CrashAt()
    run_virtual(at_work(MemoryJournal(before_append=counter)), limit_s=3_600)
    for at in range(1, counter.calls - 1):
        hook = CrashAt(at)
        journal = MemoryJournal(before_append=hook) if when == "before" else MemoryJournal(after_append=hook)
        assert run_virtual(at_work(journal), limit_s=3_600).restarts == 1, f"nothing died at write {at}"


def busy(version: str, checkpoint: str) -> App:
    app = App("py")

    @app.step(idempotent=True)
    async def tick(number: int) -> str:
        await asyncio.sleep(0.03)
        return version

    @app.workflow(version=version, checkpoint=checkpoint)
    async def saga(n: str) -> list[str]:
        return [await tick(number) for number in range(TICKS)]

    return app


async def never_idle(checkpoint: str) -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.start("blue", busy("blue", checkpoint).worker(namespace=world.namespace))
    await world.start("green", busy("green", checkpoint).worker(namespace=world.namespace))
    await until(lambda: world.versions() == {"blue", "green"})
    run = await client.submit(SAGA, ["0"])
    await asyncio.sleep(5)
    began = await belongs_to(client, run)
    other = "green" if began == "blue" else "blue"
    await run.resume(version=other)
    (ticks,) = await results([run])
    assert ticks == sorted(ticks, reverse=began == "green"), "it never comes back"
    assert len(ticks) == TICKS
    assert TICKS / 10 < ticks.count(began) < TICKS / 2, "it went over between two steps"
    await world.end()


@pytest.mark.parametrize("checkpoint", ["each", "batch:200ms"])
def test_a_function_that_never_idles_goes_over_between_two_steps(checkpoint: str) -> None:
    run_virtual(never_idle(checkpoint), limit_s=3_600)


# --- dormant ----------------------------------------------------------------------------------------------------------


def asleep(version: str) -> App:
    app = App("py")

    async def here() -> str:
        return version

    @app.workflow(version=version)
    async def saga(n: str) -> list[str]:
        first = await wf.run("first", here)
        await asyncio.sleep(5 * HOUR_S)
        return [first, await wf.run("second", here)]

    return app


async def dormant() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.start("blue", asleep("blue").worker(namespace=world.namespace))
    run = await client.submit(SAGA, ["0"])
    await until(lambda: world.dormant() == {run.id})
    await world.start("green", asleep("green").worker(namespace=world.namespace))
    await until(lambda: "green" in world.versions())
    await run.resume(version="green")
    await until(lambda: not world.dormant())
    await until(lambda: world.dormant() == {run.id})
    assert await belongs_to(client, run) == "green"
    assert world.node is not None
    await world.node.abort()
    await world.start_node()
    await run.wait(6 * HOUR_S)
    assert await results([run]) == [["blue", "green"]]
    await world.end()


def test_a_run_that_sleeps_for_hours_goes_over_and_sleeps_on() -> None:
    run_virtual(dormant(), limit_s=10 * HOUR_S)
