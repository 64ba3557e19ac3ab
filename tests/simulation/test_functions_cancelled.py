"""Cancelling a run with durable functions: each is told once, cleans up in steps, and then the run ends; by force it ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_functions import CrashAt, Ledger, histories_of, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_broker.protocol.histories import CancelAsked, Settled
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Cancel
from stepmesh_orchestrator.journal.memory import MemoryJournal

FLOW = {"steps": [{"id": "trip", "component": "/py/trip", "input": {"$input": "$"}}], "output": {"$step": "trip"}}


def trip_worker(ledger: Ledger) -> Worker:
    app = App("py")
    book, unbook = ledger.step("book"), ledger.step("unbook", 1.0)

    async def trip(value: int) -> Any:
        async with wf.saga() as saga:
            for hotel in range(2):
                await book(hotel)
                saga.undo(unbook, hotel)
            await asyncio.sleep(3_600)
        return "there"

    app.workflow(trip)
    return app.worker(concurrency=2)


async def play(
    journal: MemoryJournal, *, force: bool = False, wait_until: Callable[[Ledger], bool] = lambda _: True
) -> tuple[World, Ledger]:
    world, ledger = World(journal), Ledger()
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    worker = trip_worker(ledger)
    running = asyncio.create_task(worker.run(await world.connection()))
    handle = await client.submit(FLOW, [1])
    await until(lambda: wait_until(ledger))
    await client.requests.tell(Partition(0), Cancel(handle.id, "no time", force=force))
    info = await handle.wait(timeout=20_000)
    assert info.summary.status == "cancelled"
    worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await world.close(keeper)
    await world.audit()
    return world, ledger


def booked(ledger: Ledger) -> bool:
    return ledger.done["book"] == 2


def test_what_was_done_is_undone_before_the_run_ends() -> None:
    world, ledger = run_virtual(play(MemoryJournal(), wait_until=booked), 30_000)
    assert ledger.done == {"book": 2, "unbook": 2}
    (records,) = asyncio.run(histories_of(world)).values()
    assert sum(isinstance(record, CancelAsked) for record in records) == 1


def test_a_dormant_one_is_woken_to_clean_up() -> None:
    async def later() -> Ledger:
        world, ledger = World(), Ledger()
        await world.start_node()
        client = await world.client()
        worker = trip_worker(ledger)
        running = asyncio.create_task(worker.run(await world.connection()))
        handle = await client.submit(FLOW, [1])
        await until(lambda: world.dormant() == {handle.id})
        await client.cancel(handle.id)
        assert (await handle.wait(timeout=100)).summary.status == "cancelled"
        worker.stop()
        await running
        await world.close()
        return ledger

    assert run_virtual(later()).done == {"book": 2, "unbook": 2}


def test_by_force_nothing_is_undone() -> None:
    _, ledger = run_virtual(play(MemoryJournal(), force=True, wait_until=booked), 30_000)
    assert ledger.done == {"book": 2}


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_write_of_it_leaves_nothing_undone(side: str) -> None:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count), wait_until=booked), 30_000)
    for at in range(1, count.calls + 1):
        world, _ = run_virtual(play(journal(side, CrashAt(at)), wait_until=booked), 30_000)
        (records,) = asyncio.run(histories_of(world)).values()
        asked = next(place for place, record in enumerate(records) if isinstance(record, CancelAsked))
        done = [record.id for record in records[:asked] if isinstance(record, Settled)]
        undone = [record.id for record in records[asked:] if isinstance(record, Settled) and "unbook" in record.id]
        assert len(undone) == len(done) > 0, f"write {at}"
