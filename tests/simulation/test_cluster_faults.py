"""What orchestrators of a cluster need fails, at moments that are rare: partitions come back by themselves, all of them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from tests.simulation.cluster_world import TTL_S, ClusterWorld
from tests.simulation.deployment_world import until
from tests.simulation.test_cluster import QUICK, joined
from tests.simulation.virtual_loop import run_virtual

from stepmesh.client import Client
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import peers
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.rules import JournalUnavailable
from stepmesh_orchestrator.ports import Ownership
from stepmesh_orchestrator.runtime.owners import Owners

LIMIT_S = 10_000.0


async def works(world: ClusterWorld) -> None:
    """Every partition is answered for over the broker, and runs come to their end."""
    owners = Owners(await world.connection(), Namespace("default"), world.count, {})
    await owners.ask_all(peers.Settle(), peers.Settled)
    client = Client(await world.connection(), patience_s=math.inf)
    flow = await client.store_flow(QUICK)
    handles = await asyncio.gather(*(client.submit(flow, [{"n": n}]) for n in range(8 * world.count)))
    for handle in handles:
        assert (await handle.wait(timeout=LIMIT_S)).summary.status == "completed"


def test_a_journal_that_was_away_for_long_finds_everybody_waiting_for_it() -> None:
    async def play() -> None:
        away = False

        def fail(*_: object) -> None:
            if away:
                raise JournalUnavailable("away, by the test")

        world = ClusterWorld(4, before_append=fail)
        acquire = world.journal.acquire

        async def acquired(partition: Partition, owner: str) -> Ownership:
            fail()
            return await acquire(partition, owner)

        world.journal.acquire = acquired  # type: ignore[method-assign]
        await joined(world, 2)
        away = True
        client = Client(await world.connection(), patience_s=math.inf)
        flow = await client.store_flow(QUICK)
        asked = asyncio.gather(*(client.submit(flow, [{"n": n}]) for n in range(32)))
        await world.clock.sleep(2_400)
        assert not any(node.partitions for node in world.nodes)
        away = False
        for handle in await asked:
            await handle.wait(timeout=60)
        await works(world)
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)


class DeafOnce:
    """The broker is away for a moment: when the first `times` doors to owners are to be opened."""

    def __init__(self, inner: Broker, left: list[int]) -> None:
        self._inner = inner
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def serve(self, subject: Any, responder: Any, group: str = "") -> Any:
        if ".owner." in subject and self._left[0]:
            self._left[0] -= 1
            raise BrokerUnavailable("away, by the test")
        return await self._inner.serve(subject, responder, group)


def test_a_partition_whose_door_cannot_be_opened_is_started_again() -> None:
    async def play() -> None:
        left = [3]
        world = ClusterWorld(4, lambda broker: DeafOnce(broker, left))
        await world.join()
        await world.start_worker()
        await until(lambda: len(world.nodes[0].partitions) == 4 and not left[0])
        await world.join()
        await world.settled()
        await works(world)
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)


def test_a_membership_that_takes_its_time_delays_the_taking_and_ends_no_lease() -> None:
    """All partitions together take longer than the time to live."""

    async def play() -> None:
        world = ClusterWorld(16)
        take, dropped = world.membership.take, 0

        async def slowly(partition: Partition, node: str, ttl_s: float) -> bool:
            await asyncio.sleep(TTL_S / 10)
            return await take(partition, node, ttl_s)

        world.membership.take = slowly  # type: ignore[method-assign]
        node = await world.join()
        await world.start_worker()
        most = 0
        while most < 16:
            await asyncio.sleep(0.05)
            dropped += len(node.partitions) < most
            most = max(most, len(node.partitions))
        assert not dropped
        await works(world)
        await world.close()
        await world.audit()

    run_virtual(play(), 120.0)
