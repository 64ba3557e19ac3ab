"""A running namespace whose streams were made with other settings: more copies and another window are given to it, less is not."""

from __future__ import annotations

import logging

import pytest
from tests.integration.nats.test_cluster_faults import info, leader, whole
from tests.services.nats import NatsServers

from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position

P = Partition(0)
POOL = Pool("cpu")


async def started(cluster: NatsServers, namespace: Namespace, **settings: float) -> NatsBroker:
    """As an orchestrator does it: it asks for the incarnation."""
    broker = NatsBroker(NatsSettings.parse(cluster.url, namespace, **settings))
    await broker.connect()
    await broker.incarnation()
    return broker


@pytest.mark.slow
async def test_one_copy_becomes_three_with_what_is_in_it(cluster: NatsServers, namespace: Namespace) -> None:
    streams = [f"stepmesh_{namespace}_{kind}" for kind in ("tasks", "inbox")]
    first = await started(cluster, namespace, replicas=1, dedupe_window_s=5.0)
    life = await first.incarnation()
    await first.publish_tasks(POOL, b"t", "1")
    position = await first.post(P, b"i")
    assert {(await info(cluster, stream)).config.num_replicas for stream in streams} == {1}
    await first.close()
    second = await started(cluster, namespace, dedupe_window_s=7.0, publish_timeout_s=30.0)
    for stream in streams:
        await whole(cluster, stream)
        found = (await info(cluster, stream)).config
        assert (found.num_replicas, found.duplicate_window) == (3, 7.0)
    assert await second.incarnation() == life
    killed = await leader(cluster, streams[1])
    cluster.kill(killed)
    try:
        (delivery,) = await (await second.tasks(POOL)).fetch(1, 60)
        (entry,) = await (await second.inbox(P, Position(0))).fetch(1, 60)
    finally:
        cluster.restart(killed)
    assert (delivery.data, entry.data, entry.position) == (b"t", b"i", position)
    await second.close()


async def test_fewer_copies_are_not_made(cluster: NatsServers, namespace: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    first = await started(cluster, namespace, replicas=3)
    with caplog.at_level(logging.WARNING):
        second = await started(cluster, namespace, replicas=1)
    assert "keeps file storage and 3 replicas" in caplog.text
    assert (await info(cluster, f"stepmesh_{namespace}_tasks")).config.num_replicas == 3
    await first.close()
    await second.close()


async def test_more_copies_than_there_are_servers_are_told(nats_url: str, namespace: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    first = NatsBroker(NatsSettings.parse(nats_url, namespace))
    await first.connect()
    await first.incarnation()
    second = NatsBroker(NatsSettings.parse(nats_url, namespace, replicas=3))
    await second.connect()
    with caplog.at_level(logging.WARNING):
        await second.incarnation()
    assert f"stream stepmesh_{namespace}_tasks keeps its settings" in caplog.text
    await first.close()
    await second.close()
