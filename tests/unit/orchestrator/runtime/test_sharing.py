"""A node of a cluster when something fails: a partition, all of them, the membership, the journal's owner."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from tests.simulation.cluster_world import TTL_S, ClusterWorld
from tests.simulation.deployment_world import until
from tests.unit.orchestrator.runtime.lab import virtual

from stepmesh_broker.protocol.ids import Partition, partition_of
from stepmesh_orchestrator.journal import JournalUnavailable
from stepmesh_orchestrator.node import Node
from stepmesh_orchestrator.ports import Member, Members, MembershipFull, Ownership
from stepmesh_orchestrator.runtime.holding import AWAY_S, GIVE_UP, PAUSE_S, STEADY_S

ECHO = {"name": "echo", "steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "a"}}


class Broken:
    """`journal.acquire` fails for some partitions; when it was called, by partition."""

    def __init__(self, world: ClusterWorld, is_broken: Callable[[Partition], bool], problem: Exception | None = None) -> None:
        self.is_broken = is_broken
        self.problem = problem or OSError("gone")
        self.calls: dict[Partition, list[float]] = {}
        self._acquire = world.journal.acquire
        world.journal.acquire = self.acquire  # type: ignore[method-assign]

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        self.calls.setdefault(partition, []).append(asyncio.get_running_loop().time())
        if self.is_broken(partition):
            raise self.problem
        return await self._acquire(partition, owner)


async def alone(world: ClusterWorld) -> Node:
    node = await world.join()
    await world.settled()
    return node


@virtual
async def test_a_partition_that_cannot_be_started_is_tried_ever_more_rarely_while_the_others_work() -> None:
    world = ClusterWorld(4)
    broken = Broken(world, lambda partition: partition == 2)
    node = await world.join()
    await until(lambda: len(node.partitions) == 3)
    await asyncio.sleep(400)
    calls = broken.calls[Partition(2)]
    pauses = [round(later - earlier, 1) for earlier, later in itertools.pairwise(calls)]
    assert pauses[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert max(pauses) == PAUSE_S[1]
    assert not node.ended.done()
    broken.is_broken = lambda partition: False
    await until(lambda: len(node.partitions) == 4)
    await world.close()


@virtual
async def test_a_node_of_which_everything_fails_gives_up() -> None:
    world = ClusterWorld(3)
    broken = Broken(world, lambda partition: True)
    node = await world.join()
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(asyncio.shield(node.ended), 60)
    assert all(len(calls) >= GIVE_UP for calls in broken.calls.values())
    await world.crash(node)


@virtual
async def test_what_is_away_is_waited_for() -> None:
    world = ClusterWorld(3)
    broken = Broken(world, lambda partition: True, JournalUnavailable("away"))
    node = await world.join()
    await asyncio.sleep(120)
    assert not node.ended.done()
    broken.is_broken = lambda partition: False
    back = asyncio.get_running_loop().time()
    await until(lambda: len(node.partitions) == 3)
    assert asyncio.get_running_loop().time() - back <= AWAY_S + 0.2
    await world.close()


@virtual
async def test_one_failure_less_is_no_reason_to_give_up() -> None:
    world = ClusterWorld(3)
    failures = dict.fromkeys(range(3), GIVE_UP - 1)

    def is_broken(partition: Partition) -> bool:
        failures[partition] -= 1
        return failures[partition] >= 0

    Broken(world, is_broken)
    node = await world.join()
    await until(lambda: len(node.partitions) == 3)
    await asyncio.sleep(30)
    assert not node.ended.done()
    await world.close()


@virtual
async def test_a_partition_that_an_outsider_took_is_taken_back() -> None:
    world = ClusterWorld(4)
    node = await alone(world)
    await world.start_worker()
    client = await world.client()
    for partition in range(4):
        await world.journal.acquire(Partition(partition), "an outsider")
    handle = await client.submit(ECHO, [{"n": 1}])
    assert (await handle.wait(timeout=60)).summary.status == "completed"
    home = partition_of(handle.id, 4)
    assert node.partitions[home].shard.ownership.epoch == 3
    assert not node.ended.done()
    await world.close()


@virtual
async def test_failures_long_ago_do_not_count() -> None:
    world = ClusterWorld(1)
    node = await alone(world)
    sharing = node.sharing
    assert sharing is not None
    for _ in range(GIVE_UP + 2):
        await asyncio.sleep(STEADY_S + 1)
        problem: Any = OSError("once in a while")
        node.partitions[Partition(0)]._on_end(problem)
        await until(lambda: not node.partitions)
        await until(lambda: bool(node.partitions))
        assert sharing.holdings[Partition(0)].failures == 1
    await world.close()


@virtual
async def test_beats_that_are_not_answered_cost_what_is_held_when_the_time_is_over_and_not_before() -> None:
    world = ClusterWorld(4)
    node = await alone(world)
    world.lines[node].shut()
    last = asyncio.get_running_loop().time()
    await asyncio.sleep(TTL_S * 2 / 3 - 0.1)  # the last beat that was answered was at most a third before
    assert len(node.partitions) == 4
    await until(lambda: not node.partitions)
    assert asyncio.get_running_loop().time() - last < TTL_S + 0.5
    world.lines[node].open()
    await world.settled()
    assert not node.ended.done()
    await world.close()


@virtual
async def test_while_there_is_no_space_for_a_beat_nobody_can_take_anything_so_all_is_held_and_answers() -> None:
    """Row F1 where the members are kept beside the journal."""
    world = ClusterWorld(4)
    nodes = [await world.join(), await world.join()]
    await world.settled()
    client = await world.client()
    waiting = [await client.submit(ECHO, [n]) for n in range(8)]
    full, world.membership.beat = world.membership.beat, refused  # type: ignore[method-assign]
    await asyncio.sleep(10 * TTL_S)
    assert world.shares(*nodes) == [2, 2]
    for handle in waiting:
        assert (await handle.info()).summary.status == "running"
    world.membership.beat = full  # type: ignore[method-assign]
    await asyncio.sleep(TTL_S)
    await world.settled()
    await world.start_worker()
    assert [await handle.result(timeout=60) for handle in waiting] == list(range(8))
    await world.close()


async def refused(member: Member, ttl_s: float) -> Members:
    raise MembershipFull("no space is left for it")
