"""A workflow that another one waits for is given up, with a cancelled run or by its caller: it cleans up in steps before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_functions import CrashAt, Ledger, histories_of, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client, RunHandle, Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_broker.protocol.histories import CancelAsked
from stepmesh_orchestrator.journal.memory import MemoryJournal

Act = Callable[[Client, RunHandle, Ledger], Awaitable[Any]]


def trips(ledger: Ledger) -> Worker:
    app = App("py")
    book, unbook = ledger.step("book"), ledger.step("unbook", 1.0)

    async def trip(value: int) -> Any:
        async with wf.saga() as saga:
            for hotel in range(2):
                await book(hotel)
                saga.undo(unbook, hotel)
            await asyncio.sleep(3_600)
        return "there"

    async def outer(value: int) -> Any:
        return await wf.call("/py/trip", value)

    async def impatient(value: int) -> Any:
        try:
            async with asyncio.timeout(60):
                return await wf.call("/py/trip", value)
        except TimeoutError:
            return "late"

    for body in (trip, outer, impatient):
        app.workflow(body)
    return app.worker(concurrency=2)


async def play(memory: MemoryJournal, component: str, act: Act) -> tuple[World, Ledger]:
    world, ledger = World(memory), Ledger()
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    worker = trips(ledger)
    running = asyncio.create_task(worker.run(await world.connection()))
    flow = {"steps": [{"id": "trip", "component": component, "input": {"$input": "$"}}], "output": {"$step": "trip"}}
    await act(client, await client.submit(flow, [1]), ledger)
    await asyncio.sleep(60)
    worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await world.close(keeper)
    await world.audit()
    return world, ledger


async def cancelled(client: Client, handle: RunHandle, ledger: Ledger) -> None:
    await until(lambda: ledger.done["book"] >= 2)
    await client.cancel(handle.id)
    assert (await handle.wait(timeout=20_000)).summary.status == "cancelled"
    assert ledger.done["unbook"] >= 2, "it ends when all is cleaned up"


async def waited_for(client: Client, handle: RunHandle, ledger: Ledger) -> None:
    assert await handle.result(timeout=20_000) == "late"


@pytest.mark.parametrize(("component", "act"), [("/py/outer", cancelled), ("/py/impatient", waited_for)], ids=["run", "caller"])
def test_what_a_workflow_below_did_is_undone_when_it_is_given_up(component: str, act: Act) -> None:
    world, ledger = run_virtual(play(MemoryJournal(), component, act), 30_000)
    assert ledger.done == {"book": 2, "unbook": 2}
    for records in asyncio.run(histories_of(world)).values():
        assert sum(isinstance(record, CancelAsked) for record in records) <= 1


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_write_of_it_leaves_nothing_undone(side: str) -> None:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count), "/py/outer", cancelled), 30_000)
    for at in range(1, count.calls + 1):
        run_virtual(play(journal(side, CrashAt(at)), "/py/outer", cancelled), 30_000)
