"""One node of three is killed under load, two are, one loses its disk: what was acknowledged arrives, in order and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nats.aio.client import Client
from nats.js.api import StreamInfo
from tests.integration.nats.traffic import P, Traffic
from tests.services.nats import NatsServers

from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.protocol.ids import Namespace

LONGEST_PAUSE_S = 45.0
"""A cluster elects within 4 to 9 seconds, and an election may have to be repeated."""


async def info(cluster: NatsServers, stream: str) -> StreamInfo:
    """From whichever node answers."""
    client = Client()
    await client.connect(cluster.url.split(","))
    try:
        return await client.jetstream(timeout=5).stream_info(stream)
    finally:
        await client.close()


async def leader(cluster: NatsServers, stream: str) -> int:
    """Which node it is."""
    found = (await info(cluster, stream)).cluster
    assert found is not None
    assert found.leader is not None
    return int(found.leader.removeprefix("n")) - 1


async def whole(cluster: NatsServers, stream: str) -> None:
    """Wait until each of three copies is up to date."""
    async with asyncio.timeout(60):
        while True:
            found = (await info(cluster, stream)).cluster
            peers = (found.replicas or []) if found else []
            if len(peers) == 2 and all(peer.current and not peer.offline for peer in peers):
                return
            await asyncio.sleep(0.05)


def address(cluster: NatsServers, number: int) -> str:
    """Of one node; the client learns of the others from it."""
    return f"nats://127.0.0.1:{cluster.ports[number]}"


def others(number: int) -> list[int]:
    return [other for other in range(3) if other != number]


def nothing_lost_nor_doubled(traffic: Traffic) -> None:
    assert traffic.uncounted == []  # a frame comes twice only as a redelivery that is counted
    numbers = dict(traffic.positions)
    assert sorted(numbers.values()) == list(range(len(numbers)))  # one position for a number, however often it was sent
    assert [number for _, number in sorted(numbers.items())] == sorted(numbers.values())
    back = [later for earlier, later in zip(traffic.positions, traffic.positions[1:], strict=False) if later[0] <= earlier[0]]
    assert len(back) <= 6  # each is a reader that read anew from the last acknowledged one
    assert max(max(channel.pause_s, channel.gap_s) for channel in traffic.channels) < LONGEST_PAUSE_S


Choice = Callable[[int, int], tuple[int, int]]
"""Leaders of tasks and inbox → which node is killed, to which one the clients are connected."""
KILLS: dict[str, Choice] = {
    "the node of the clients": lambda tasks, inbox: (others(tasks)[0], others(tasks)[0]),
    "the leader of the tasks": lambda tasks, inbox: (tasks, others(tasks)[0]),
    "the leader of the inbox": lambda tasks, inbox: (inbox, others(inbox)[1]),
    "the leader, with the clients": lambda tasks, inbox: (tasks, tasks),
}


@pytest.mark.slow
@pytest.mark.parametrize("victim", KILLS)
async def test_one_of_three_is_killed(cluster: NatsServers, namespace: Namespace, victim: str) -> None:
    maker = NatsBroker(NatsSettings.parse(cluster.url, namespace))
    await maker.connect()
    await maker.incarnation()
    await maker.post(P, b"0", "i0")
    await maker.close()
    killed, at = KILLS[victim](await leader(cluster, f"stepmesh_{namespace}_tasks"), await leader(cluster, f"stepmesh_{namespace}_inbox"))
    async with Traffic(namespace, address(cluster, at), address(cluster, at)) as traffic:
        cluster.kill(killed)
        try:
            await traffic.progress()
            await traffic.stop_feeding()
        finally:
            cluster.restart(killed)
    print(f"{victim}: pauses", *(f"{channel.pause_s:.1f} s in, {channel.gap_s:.1f} s out;" for channel in traffic.channels))
    nothing_lost_nor_doubled(traffic)
    assert [len(channel.refusals) for channel in (traffic.tasks, traffic.inbox)] == [0, 0]
    tasks = await info(cluster, f"stepmesh_{namespace}_tasks")
    assert tasks.state.last_seq in {traffic.tasks.acknowledged, traffic.tasks.acknowledged + 1}  # the one that was under way at the end


@pytest.mark.slow
async def test_two_of_three_are_killed_and_come_back(cluster: NatsServers, namespace: Namespace) -> None:
    async with Traffic(namespace, address(cluster, 0), address(cluster, 0), publish_timeout_s=1.5) as traffic:
        cluster.kill(1)
        cluster.kill(2)
        try:
            await traffic.until(lambda: bool(traffic.tasks.refusals and traffic.inbox.refusals))
            assert {*traffic.tasks.refusals, *traffic.inbox.refusals} == {"SM-3001"}
        finally:
            cluster.restart(1)
            cluster.restart(2)
        await traffic.progress()
        await traffic.stop_feeding()
    assert traffic.uncounted == []
    assert sorted(dict(traffic.positions).values()) == list(range(len(dict(traffic.positions))))


@pytest.mark.slow
async def test_a_node_without_its_disk_is_filled_again(cluster: NatsServers, namespace: Namespace) -> None:
    streams = [f"stepmesh_{namespace}_tasks", f"stepmesh_{namespace}_inbox"]
    async with Traffic(namespace, cluster.url, cluster.url) as traffic:
        cluster.kill(2)
        cluster.wipe(2)
        cluster.restart(2)
        await traffic.progress()
        for stream in streams:
            await whole(cluster, stream)
        cluster.kill(1)  # now the wiped one is needed for a majority
        try:
            await traffic.progress()
            await traffic.stop_feeding()
        finally:
            cluster.restart(1)
    nothing_lost_nor_doubled(traffic)
