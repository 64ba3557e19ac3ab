"""Gates through crashes at every journal write, before and after it is durable. Runs and keys are on three partitions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.test_crash_every_write import CrashAt, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.events import RunEnded, decode_turn
from stepmesh_orchestrator.core.gate_events import HOLDS, PermitMoved, RunReleased
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports

PARTITIONS = 3
MOST_WRITES = 40
GATED: dict[str, Any] = {
    "name": "gated",
    "concurrency": {"key": {"$input": "who"}, "limit": 2},
    "throttle": {"key": {"$input": "who"}, "rate": "3/10s"},
    "steps": [{"id": "a", "component": "/cpu/slow", "input": {"$input": "who"}}],
    "output": {"$step": "a"},
}


class Partitioned(World):
    """Its node has several partitions."""

    async def start_node(self) -> Node:
        ports = Ports(await self.connection(), self.journal, self.store, self.clock)
        self.node = Node(ports, NodeSettings(partitions=PARTITIONS))
        await self.node.start()
        return self.node


async def play(journal: MemoryJournal, crash: CrashAt) -> World:
    """Four runs of one key, one of another, and one that is cancelled before it begins."""
    world = Partitioned(journal)
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    client = await world.client()
    runs = [await client.submit(GATED, [{"who": who}]) for who in ("x", "x", "x", "y", "x")]
    last = await client.submit(GATED, [{"who": "x"}])
    await client.cancel(last.id)
    for run in runs:
        assert (await run.wait(timeout=1_200)).summary.status == "completed"
    assert (await last.wait(timeout=1_200)).summary.status == "cancelled"
    crash.at.clear()  # an orderly end writes, too, and nobody would start anew
    await world.close(keeper)
    await world.audit()
    await check_limits(world, {run.id for run in runs} - {runs[3].id})
    return world


async def check_limits(world: World, of_key: set[str]) -> None:
    """By the journals of all partitions: never three between their release and their end, nor more let through than the rate."""
    released: dict[str, int] = {}
    ended: dict[str, int] = {}
    times: list[int] = []
    for partition in range(PARTITIONS):
        async for frame in world.journal.read(Partition(partition)):
            turn = decode_turn(frame.payload)
            for event in turn.events:
                if isinstance(event, RunReleased) and event.run in of_key:
                    released[event.run] = turn.at_ms
                elif isinstance(event, RunEnded) and event.run in of_key:
                    ended[event.run] = turn.at_ms
                elif isinstance(event, PermitMoved) and event.key.endswith("/throttle/x") and event.to == HOLDS:
                    times.append(turn.at_ms)
    assert set(released) == set(ended) == of_key
    for run, at in released.items():
        beside = [other for other in of_key if released[other] <= at < ended[other]]
        assert len(beside) <= 2, f"{beside} go at once when {run} begins"
    times.sort()
    for first, at in enumerate(times):
        for later in range(first + 3, len(times)):
            assert times[later] - at >= (later - first - 2) * 3_333, "more than the rate"


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_single_write_passes_no_limit_and_loses_no_run(side: str) -> None:
    """Which partitions runs and keys are on, and so how many writes there are, is another one each time: 16 to 39 in 400 plays."""
    restarts = sum(run_virtual(play(journal(side, crash := CrashAt(at)), crash)).restarts for at in range(1, MOST_WRITES + 1))
    assert restarts > 20
