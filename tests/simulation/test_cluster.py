"""Orchestrators that share partitions: whatever comes and goes, every run ends and is recorded once, and no partition stands still long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from tests.simulation.cluster_world import TTL_S, ClusterWorld
from tests.simulation.test_crash_every_write import FLOW, expected
from tests.simulation.virtual_loop import run_virtual

from stepmesh.runs import RunHandle
from stepmesh_orchestrator.node import Node

LIMIT_S = 240.0
QUICK = {"name": "quick", "steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "n"}}], "output": {"$step": "a"}}


class Load:
    """Submits runs all the time, one after the other, until it is told to stop."""

    def __init__(self, world: ClusterWorld, flow: object = QUICK, every_s: float = 0.02) -> None:
        self.world = world
        self.flow = flow
        self.every_s = every_s
        self.handles: list[RunHandle] = []
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._submit())

    async def _submit(self) -> None:
        client = await self.world.client()
        flow = await client.store_flow(self.flow)  # type: ignore[arg-type]
        while not self._stopping:
            asking = [client.submit(flow, [{"n": len(self.handles) + n}]) for n in range(8)]
            self.handles += await asyncio.gather(*asking)
            await asyncio.sleep(self.every_s)

    async def ended(self) -> list[RunHandle]:
        """All that were accepted, over."""
        self._stopping = True
        assert self._task is not None
        await self._task
        for handle in self.handles:
            await handle.wait(timeout=600)
        return self.handles


async def joined(world: ClusterWorld, nodes: int, workers: int = 2) -> list[Node]:
    for _ in range(nodes):
        await world.join()
    for _ in range(workers):
        await world.start_worker()
    await world.settled()
    return list(world.nodes)


async def under_load(events: Callable[[ClusterWorld], Awaitable[None]], nodes: int = 3, partitions: int = 8) -> tuple[ClusterWorld, float]:
    """The longest gap of a partition while `events` happen; everything accepted has ended and the audit holds."""
    world = ClusterWorld(partitions)
    await joined(world, nodes)
    load = Load(world)
    await load.start()
    await asyncio.sleep(2)
    begin = asyncio.get_running_loop().time()
    await events(world)
    await world.settled()
    await asyncio.sleep(1)
    gap = world.longest_gap(begin, asyncio.get_running_loop().time())
    handles = await load.ended()
    assert len(handles) > 100
    for handle in handles:
        assert (await handle.wait(timeout=600)).summary.status == "completed"
    await world.close()
    await world.audit()
    return world, gap


# --- who holds what --------------------------------------------------------------------------------------


def test_partitions_are_shared_as_nodes_join_and_leave() -> None:
    async def play() -> None:
        world = ClusterWorld(16)
        first = await world.join()
        await world.settled()
        assert world.shares() == [16]
        await world.join()
        await world.settled()
        assert world.shares() == [8, 8]
        await world.join()
        await world.settled()
        assert world.shares() == [5, 5, 6]
        await world.leave(first)
        await world.settled()
        assert world.shares() == [8, 8]
        assert first.partitions == {}
        await world.close()

    run_virtual(play(), LIMIT_S)


def test_three_nodes_that_start_at_once_end_with_fair_shares() -> None:
    async def play() -> None:
        world = ClusterWorld(16)
        await asyncio.gather(*(world.join() for _ in range(3)))
        await world.settled()
        assert world.shares() == [5, 5, 6]
        await world.close()

    run_virtual(play(), LIMIT_S)


def test_more_nodes_than_partitions_wait_for_a_chance() -> None:
    async def play() -> None:
        world = ClusterWorld(2)
        nodes = await joined(world, 3, workers=0)
        assert world.shares() == [0, 1, 1]
        await world.crash(next(node for node in nodes if node.partitions))
        await world.settled()
        assert world.shares() == [1, 1]
        await world.close()

    run_virtual(play(), LIMIT_S)


# --- under load ------------------------------------------------------------------------------------------


def test_a_join_and_a_leave_stall_no_partition_for_long() -> None:
    async def events(world: ClusterWorld) -> None:
        node = await world.join()
        await world.settled()
        await asyncio.sleep(2)
        await world.leave(node)

    _, gap = run_virtual(under_load(events), LIMIT_S)
    assert gap < 1.0, f"{gap:.2f} s: told of a release, the next owner looks at once"


def test_a_crash_costs_the_time_to_live_and_a_look() -> None:
    async def events(world: ClusterWorld) -> None:
        await world.crash(world.nodes[0])

    _, gap = run_virtual(under_load(events), LIMIT_S)
    assert gap < TTL_S * 4 / 3 + 1.0


def test_all_nodes_are_replaced_one_after_the_other() -> None:
    async def events(world: ClusterWorld) -> None:
        for node in list(world.nodes):
            await world.leave(node)
            await world.settled()
            await world.join()
            await world.settled()

    world, gap = run_virtual(under_load(events), LIMIT_S)
    assert gap < 1.0
    assert world.shares() == []


def test_a_node_that_stood_still_finds_its_partitions_taken_and_changes_nothing() -> None:
    async def events(world: ClusterWorld) -> None:
        victim = world.nodes[0]
        owned = set(victim.partitions)
        world.pause(victim)
        world.nodes.remove(victim)
        await world.settled()
        await asyncio.sleep(2)
        assert set(victim.partitions) == owned, "it does not know yet"
        world.nodes.append(victim)
        world.resume(victim)
        await world.settled()
        assert victim.ended.done() is False

    run_virtual(under_load(events), LIMIT_S)


def test_a_node_without_its_membership_gives_up_what_it_holds_and_comes_back() -> None:
    async def events(world: ClusterWorld) -> None:
        victim = world.nodes[0]
        world.nodes.remove(victim)
        world.lines[victim].shut()
        await world.settled()
        assert victim.partitions == {}
        world.lines[victim].open()
        world.nodes.append(victim)
        await world.settled()

    run_virtual(under_load(events), LIMIT_S)


@pytest.mark.parametrize("seed", range(6))
def test_nodes_that_come_go_crash_and_stand_still_at_random(seed: int) -> None:
    async def trouble(world: ClusterWorld, random: Random) -> None:
        for _ in range(8):
            await asyncio.sleep(random.uniform(0.0, 5.0))
            kind = random.choice(["join", "leave", "crash", "pause"])
            node = random.choice(world.nodes)
            if kind == "join" or len(world.nodes) == 1:
                await world.join()
            elif kind == "leave":
                await world.leave(node)
            elif kind == "crash":
                await world.crash(node)
            else:
                world.pause(node)
                await asyncio.sleep(random.uniform(0.0, 8.0))
                world.resume(node)

    async def play() -> None:
        world = ClusterWorld(5)
        await joined(world, 3)
        client = await world.client()
        load = Load(world, every_s=0.5)
        await load.start()
        troubled = asyncio.create_task(trouble(world, Random(seed)))
        handles = [await client.submit(FLOW, [{"n": n}], run_key=f"k{n}") for n in range(4)]
        for n, handle in enumerate(handles):
            await handle.wait(timeout=1_500)
            results = [json.loads(item.result) async for item in handle.items()]
            assert [result.get("result", result) for result in results] == [expected(n)]
        await troubled
        await load.ended()
        await world.settled()
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)
