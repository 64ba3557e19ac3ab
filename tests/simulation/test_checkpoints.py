"""A function that goes ahead of its history while events come, over a whole deployment: the orchestrator dies at every journal write, a
worker dies on the way; the result is the same, the history is whole, and what may not be done again is not."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.test_functions import CrashAt, Ledger, histories_are_whole, histories_of, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.steps import Step
from stepmesh_broker.protocol.histories import Settled
from stepmesh_orchestrator.journal.memory import MemoryJournal

STEPS, TICKS = 60, 5
FLOW = {"steps": [{"id": "count", "component": "/py/counting", "input": 0}], "output": {"$step": "count"}}


def counting_worker(ledger: Ledger, checkpoint: str = "batch:50ms") -> Worker:
    app = App("py")
    often, once = ledger.step("often", 0.004), ledger.step("once")
    often = Step(often.fn, "often", idempotent=True)

    @app.workflow(checkpoint=checkpoint)
    async def counting(start: int) -> list[int]:
        heard: list[int] = []

        async def listen() -> None:
            while len(heard) < TICKS:
                heard.append(await wf.wait_for_event("tick", "t"))

        listening = asyncio.create_task(listen())
        total = start
        for number in range(STEPS):
            total += await often(1 + len(heard))
            if number == STEPS // 2:
                await once(total)
                await asyncio.sleep(60)
        await listening
        return [total > STEPS, *sorted(heard)]

    return app.worker(concurrency=2)


async def play(memory: MemoryJournal, kill_worker_after: float | None = None, checkpoint: str = "batch:50ms") -> tuple[World, Ledger]:
    world, ledger = World(memory), Ledger()
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    worker = counting_worker(ledger, checkpoint)
    running = asyncio.create_task(worker.run(await world.connection()))
    handle = await client.submit(FLOW, [0])
    for tick in range(TICKS):
        await asyncio.sleep(0.06)
        await client.events.send("tick", key="t", data=tick, id=f"tick {tick}")
    if kill_worker_after is not None:
        await asyncio.sleep(kill_worker_after)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        worker = counting_worker(ledger, checkpoint)
        running = asyncio.create_task(worker.run(await world.connection()))
    assert await handle.result(timeout=20_000) == [True, *range(TICKS)]
    worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await world.close(keeper)
    await world.audit()
    await histories_are_whole(world)
    (records,) = (await histories_of(world)).values()
    assert sum(isinstance(record, Settled) and record.id.startswith("r/often") for record in records) == STEPS
    return world, ledger


def test_events_that_come_between_make_it_do_again_what_may_be_done_again() -> None:
    count, each = CrashAt(), CrashAt()
    _, ledger = run_virtual(play(MemoryJournal(before_append=count)), 30_000)
    assert ledger.done["once"] == 1
    assert ledger.done["often"] > STEPS, "some of it did not count"
    _, strict = run_virtual(play(MemoryJournal(before_append=each), checkpoint="each"), 30_000)
    assert strict.done == {"often": STEPS, "once": 1}
    assert count.calls < each.calls / 2


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_write_changes_no_result(side: str) -> None:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count)), 30_000)
    for at in range(1, count.calls + 1):
        _, ledger = run_virtual(play(journal(side, CrashAt(at))), 30_000)
        assert ledger.done["once"] <= 2


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 30.0, 60.0, 60.1])
def test_a_worker_that_dies_changes_no_result(after_s: float) -> None:
    run_virtual(play(MemoryJournal(), kill_worker_after=after_s), 30_000)
