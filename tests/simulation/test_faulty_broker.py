"""Duplicates, losses, reordering, refusals and crashes, all at once and seeded: every run still ends, and is recorded once."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from random import Random

import pytest
from tests.simulation.deployment_world import Crash, World
from tests.simulation.faults import FAULTS, FaultyBroker, Rates, until
from tests.simulation.test_crash_every_write import FLOW, expected
from tests.simulation.virtual_loop import run_virtual

from stepmesh_orchestrator.journal.memory import MemoryJournal

SEEDS = int(os.environ.get("STEPMESH_FAULT_SEEDS", "12"))
HEALS_S = 60.0
RESTARTED_S = 10.0
"""A node that crashed at the last moment is back by then."""
ROWS = {
    "D1 duplicates": Rates(duplicate=0.4),
    "D2 reordering": Rates(delay=0.5, duplicate=0.2),
    "D3 loss": Rates(deaf=0.3, refuse=0.3, mute=0.2),
    "D4 accepted, then forgotten": Rates(forget=0.5),
    "all of them": Rates(0.2, 0.2, 0.2, 0.2, 0.2, 0.1),
}


class CrashSometimes:
    def __init__(self, random: Random, chance: float, at_most: int) -> None:
        self.random, self.chance, self.left = random, chance, at_most

    def __call__(self, partition: int, sequence: int) -> None:
        if self.left and self.random.random() < self.chance:
            self.left -= 1
            raise Crash("by the seed")


async def kill_workers(world: World, random: Random) -> None:
    """Workers vanish with what they hold; new ones come."""
    for _ in range(3):  # as many as the transport budget pays for
        await asyncio.sleep(random.uniform(0.5, 6.0))
        _, task = world.workers.pop(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await world.start_worker()


async def play(seed: int, rates: Rates, seen: Counter[str]) -> World:
    random = Random(seed)
    crashes = CrashSometimes(random, 0.05, 4)
    journal = MemoryJournal(after_append=crashes)
    world = World(journal, lambda broker: FaultyBroker(broker, until(rates, HEALS_S), random, lambda fault, _: seen.update((fault,))))
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    await world.start_worker()
    killer = asyncio.create_task(kill_workers(world, random))
    client = await world.client()
    handles = [await client.submit(FLOW, [{"n": n}], run_key=f"k{n}") for n in range(4)]
    for n, handle in enumerate(handles):
        await handle.wait(timeout=1_500)
        results = [json.loads(item.result) async for item in handle.items()]
        assert [result.get("result", result) for result in results] == [expected(n)]
    await killer
    crashes.left = 0
    await asyncio.sleep(RESTARTED_S)
    await world.close(keeper)
    await world.audit()
    return world


@pytest.mark.parametrize("row", ROWS)
def test_every_run_ends_and_nothing_is_recorded_twice(row: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        run_virtual(play(seed, ROWS[row], seen))
    wanted = {fault for fault in FAULTS if getattr(ROWS[row], fault)}
    assert wanted <= set(seen), "every fault of the row was reached"
