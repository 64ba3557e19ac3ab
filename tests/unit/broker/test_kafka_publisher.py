"""A publisher whose cluster is scripted: what it tells of a topic may be behind what was done to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka import publisher
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.records import Outgoing
from stepmesh_broker.kafka.settings import KafkaSettings


class Cluster:
    """Producer, metadata and topics in one: the topic has two partitions from the `grown`th look on, one before."""

    def __init__(self, grown: int) -> None:
        self.client = self
        self.looks = 0
        self.grown = grown

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0, 1} if self.looks >= self.grown else {0}

    async def force_metadata_update(self) -> None:
        self.looks += 1

    async def send(self, topic: str, _value: bytes, _key: None, partition: int, headers: list[Any]) -> Any:
        assert partition in await self.partitions_for(topic), "Unrecognized partition"

        async def written() -> Any:
            return SimpleNamespace(offset=7, timestamp=5)

        return written()

    async def ensure(self, _topic: str, *, again: bool) -> int:
        assert again
        return 1

    async def stop(self) -> None:
        """Nothing is left."""


async def opened(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, patience_s: float) -> Publisher:
    async def made(_: Publisher) -> Cluster:
        return cluster

    monkeypatch.setattr(Publisher, "_made", made)
    monkeypatch.setattr(publisher, "_AGAIN_S", 0.001)
    topics: Any = cluster
    found = Publisher(KafkaSettings(), topics, lasting=True, patience_s=patience_s)
    await found.start()
    return found


async def test_a_partition_that_the_cluster_does_not_tell_of_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(grown=3)
    one = await opened(monkeypatch, cluster, patience_s=30)
    assert (await one.publish(Outgoing("inbox", 1, b"x"))).offset == 7
    assert cluster.looks == 3
    await one.close()


async def test_one_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await opened(monkeypatch, Cluster(grown=1 << 30), patience_s=0.05)
    with pytest.raises(BrokerUnavailable, match="inbox took no message"):
        await one.publish(Outgoing("inbox", 1, b"x"))
    await one.close()
