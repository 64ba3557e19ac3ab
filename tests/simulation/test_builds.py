"""Runs of durable functions belong to the build that they began with: old and new workers side by side, one after the other, and a fix that
comes late. Nobody lends a hand, no run fails, and an orchestrator that dies on the way changes nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_functions import CrashAt
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client
from stepmesh.client import RunHandle
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.worker import Worker
from stepmesh_broker.protocol.api import Explain, Explained
from stepmesh_orchestrator.journal.memory import MemoryJournal

SAGA = {"steps": [{"id": "saga", "component": "/py/saga", "input": {"$input": "$"}}], "output": {"$step": "saga"}}
RUNS = 20
AT_ONCE_S = 2.0
"""Far below the 10 s after which a blocked function is tried again anyway."""
FITS, OTHER = ("charge", "ship"), ("pay", "send")


def build(version: str, names: tuple[str, str]) -> App:
    """A body of two steps with an event between; with other names it does not fit a history of these."""
    app = App("py")

    async def here() -> str:
        return version

    @app.workflow(version=version)
    async def saga(n: str) -> list[str]:
        first = await wf.run(names[0], here)
        await wf.wait_for_event("go", n, since=None)
        return [first, await wf.run(names[1], here)]

    return app


class Fleets(World):
    """Workers by build, which come and go."""

    namespace = "default"

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        super().__init__(journal)
        self.alive: dict[str, tuple[Worker, asyncio.Task[None]]] = {}

    async def deploy(self, version: str, names: tuple[str, str] = FITS) -> None:
        await self.start(version, build(version, names).worker(concurrency=4, namespace=self.namespace))
        await until(lambda: version in self.versions())

    async def start(self, name: str, worker: Worker) -> None:
        self.alive[name] = worker, asyncio.create_task(worker.run(await self.connection()))

    def versions(self) -> set[str]:
        found = [] if self.node is None else self.node.presence.functions()
        return {version.partition("+")[0] for _, _, version in found}

    async def retire(self, name: str) -> None:
        worker, running = self.alive.pop(name)
        worker.stop()
        await running

    async def end(self) -> None:
        for name in list(self.alive):
            await self.retire(name)
        await self.close()
        await self.audit()


async def begin(client: Client, about: str = "") -> list[RunHandle]:
    """Runs that wait for their event."""
    runs = [await client.submit(SAGA, [f"{about}{number}"]) for number in range(RUNS)]
    await asyncio.sleep(5)
    return runs


async def send(client: Client, about: str = "") -> None:
    for number in range(RUNS):
        await client.events.send("go", key=f"{about}{number}", id=f"go{number}")


async def results(runs: list[RunHandle]) -> list[Any]:
    ended = [await run.wait(timeout=3_600) for run in runs]
    return [json.loads(one.results[0].result)["result"] for one in ended]


async def blocked(client: Client, runs: list[RunHandle]) -> str:
    """What the last of them says, once all are blocked."""
    text = ""
    for run in runs:
        while "is blocked" not in (text := " ".join((await client.requests.ask(Explain(run.id), Explained)).lines)):
            await asyncio.sleep(0.1)
    return text


async def side_by_side() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    await asyncio.sleep(6)
    runs = await begin(client)
    for number in range(3):
        await world.deploy(f"green{number}", OTHER)
    begun = asyncio.get_running_loop().time()
    await send(client)
    assert await results(runs) == [["blue", "blue"]] * RUNS, "each went on with the code that it began with"
    assert asyncio.get_running_loop().time() < begun + AT_ONCE_S, "and without a second try"
    await world.end()


def test_while_two_builds_live_a_run_goes_to_its_own() -> None:
    run_virtual(side_by_side(), limit_s=3_600)


async def one_after_the_other(mended: bool) -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.retire("blue")
    await world.deploy("green", OTHER)
    await send(client)
    assert "SM-1001 Replay diverged" in await blocked(client, runs)
    begun, name = asyncio.get_running_loop().time(), "mended" if mended else "blue"
    await world.deploy(name)
    assert await results(runs) == [["blue", name]] * RUNS
    assert asyncio.get_running_loop().time() < begun + AT_ONCE_S, "as soon as the worker is heard, though green still lives"
    await world.end()


@pytest.mark.parametrize("mended", [False, True], ids=["its own comes back", "a fix comes"])
def test_a_run_that_the_code_does_not_fit_is_blocked_until_other_code_comes(mended: bool) -> None:
    run_virtual(one_after_the_other(mended), limit_s=3_600)


async def taken_over() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.retire("blue")
    await world.deploy("next")
    await send(client)
    assert await results(runs) == [["blue", "next"]] * RUNS, "code that fits goes on, where there is no other"
    await world.end()


def test_code_that_fits_goes_on_with_runs_of_a_build_that_is_gone() -> None:
    run_virtual(taken_over(), limit_s=3_600)


async def beside_others() -> None:
    world = Fleets()
    await world.start_node()
    client = await world.client()
    for number in range(3):
        await world.start(f"other{number}", App("py").worker())
    await world.deploy("blue")
    begun = asyncio.get_running_loop().time()
    runs = [await client.submit(SAGA, [f"{number}"]) for number in range(RUNS)]
    await send(client)
    assert await results(runs) == [["blue", "blue"]] * RUNS
    assert asyncio.get_running_loop().time() < begun + AT_ONCE_S
    await world.end()


def test_a_workflow_that_not_every_worker_of_its_pool_has_goes_to_one_that_has_it() -> None:
    run_virtual(beside_others(), limit_s=3_600)


async def crashing(journal: MemoryJournal) -> Fleets:
    world = Fleets(journal)
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    await world.deploy("blue")
    runs = await begin(client)
    await world.retire("blue")
    await world.deploy("green", OTHER)
    await send(client)
    await blocked(client, runs)
    await world.deploy("blue")
    assert await results(runs) == [["blue", "blue"]] * RUNS
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await world.end()
    return world


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_orchestrator_that_dies_meanwhile_changes_nothing(when: str) -> None:
    counter = CrashAt()
    run_virtual(crashing(MemoryJournal(before_append=counter)), limit_s=36_000)
    for at in range(1, counter.calls - 3, 7):
        hook = CrashAt(at)
        journal = MemoryJournal(before_append=hook) if when == "before" else MemoryJournal(after_append=hook)
        assert run_virtual(crashing(journal), limit_s=36_000).restarts == 1, f"nothing died at write {at}"
