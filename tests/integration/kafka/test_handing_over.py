"""What goes from one owner to the next: offsets of a group, an inbox, a place in a pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.kafka.load import POOL, P, connected, namespace

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.ids import Position


async def test_offsets_asked_of_the_wrong_broker_are_unknown_and_not_none(kafka_cluster_url: str) -> None:
    """A broker that is not the group's coordinator, or is just becoming it, says so; that is not "nothing was committed"."""
    broker = await connected(kafka_cluster_url, namespace())
    topics = broker._connection.topics
    group = topics.tasks(POOL)
    try:
        await broker.publish_tasks(POOL, b"frame", "1")
        source = await broker.tasks(POOL)
        (delivery,) = await source.fetch(1, 20)
        await delivery.ack()
        async with asyncio.timeout(20):
            while not any(offset for offset, _ in (await topics.committed(group)).values()):
                await asyncio.sleep(0.1)
        admin: Any = topics._admin
        coordinator = await admin.find_coordinator(group)
        nodes = {node.nodeId for node in admin._client.cluster.brokers()}

        async def wrong(_group: str) -> int:
            return next(iter(nodes - {coordinator}))

        admin.find_coordinator = wrong
        with pytest.raises(BrokerUnavailable, match="cannot be read"):
            await topics.committed(group)
    finally:
        await broker.close()


async def test_a_reader_that_stood_still_takes_nothing_from_its_successor(kafka_url: str) -> None:
    """It has not read yet that another one took over when it closes, and closing trims what it acknowledged."""
    name = namespace()
    old, new = await connected(kafka_url, name), await connected(kafka_url, name)
    try:
        await old.post(P, b"one")
        first = await old.inbox(P, Position(0))
        (entry,) = await first.fetch(1, 20)
        first._reader.pause(first._place)
        second = await new.inbox(P, Position(0))
        assert [found.data for found in await second.fetch(1, 20)] == [b"one"]
        await first.ack(entry.position)
        await first.close()
        await new.post(P, b"two")
        assert [found.data for found in await second.fetch(1, 20)] == [b"two"]
    finally:
        await old.close()
        await new.close()


@pytest.mark.parametrize("problem", [BrokerUnavailable("talk is away"), asyncio.CancelledError()])
async def test_who_could_not_join_a_pool_keeps_none_of_its_partitions(kafka_url: str, problem: BaseException) -> None:
    """It was in the group already when the last step failed; whoever tries again would never see the frames of its partitions."""
    broker = await connected(kafka_url, namespace())
    connection: Any = broker._connection
    try:
        listen = connection.talk.listen

        async def fails(*_: Any) -> None:
            raise problem

        connection.talk.listen = fails
        with pytest.raises(type(problem)):
            await broker.tasks(POOL)
        connection.talk.listen = listen
        source = await broker.tasks(POOL)
        for number in range(16):
            await broker.publish_tasks(POOL, b"%d" % number, str(number))
        found: set[bytes] = set()
        async with asyncio.timeout(20):
            while len(found) < 16:
                for delivery in await source.fetch(16, 1):
                    found.add(delivery.data)
                    await delivery.ack()
    finally:
        await broker.close()


async def test_a_connection_forgets_the_sources_that_were_closed(kafka_url: str) -> None:
    """A gateway opens and closes them all day."""
    broker = await connected(kafka_url, namespace())
    connection: Any = broker._connection
    try:
        for _ in range(3):
            await (await broker.tasks(POOL)).close()
        assert connection.talk._listeners == []
        assert len(connection._sources) == 1
    finally:
        await broker.close()
