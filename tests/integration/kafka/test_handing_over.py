"""What goes from one owner to the next: offsets of a group, an inbox, a place in a pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.kafka.load import POOL, connected, namespace

from stepmesh_broker.errors import BrokerUnavailable


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
