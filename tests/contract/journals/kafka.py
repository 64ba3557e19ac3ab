"""The journal in Kafka, for its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.contract.journals.logs import LOST_END, altered, with_frame, with_snapshot

from stepmesh_broker.kafka import KafkaSettings
from stepmesh_broker.kafka.topic_log import TopicLogs
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.ports import Journal

PARTITIONS = 6


class KafkaBackend:
    lost_end = LOST_END

    def __init__(self, url: str, namespace: str, durability: str) -> None:
        self.durability = durability
        self.survives = (
            "the loss of a machine" if durability == "replicated" else "power loss takes what the broker's system had not flushed"
        )
        self._url = url
        self._namespace = Namespace(namespace)
        self.journal: Journal = self._new()

    def _new(self) -> Journal:
        return KafkaJournal(self._url, self._namespace, PARTITIONS)

    async def reopened(self) -> Journal:
        await self.journal.close()
        self.journal = self._new()
        await self.journal.open()
        return self.journal

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        await self._rewrite("journal", partition, lambda entries: with_frame(entries, sequence, altered(fields)))

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        await self._rewrite("journal", partition, lambda entries: with_frame(entries, sequence, lambda record: []))

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        await self._rewrite("snapshots", partition, lambda entries: with_snapshot(entries, sequence, fields))

    async def _rewrite(self, kind: str, partition: Partition, change: Callable[[list[bytes]], list[bytes]]) -> None:
        topic = f"stepmesh.{self._namespace}.{kind}"
        logs = TopicLogs(KafkaSettings.parse(self._url))
        await logs.open()
        try:
            await logs.ensure(topic, PARTITIONS, {})
            begin, end = await logs.begin(topic, partition), await logs.end(topic, partition)
            found: list[bytes] = []
            while begin + len(found) < end:
                found += [record.value for record in await logs.fetch(topic, partition, begin + len(found), 1 << 20)]
            for data in change(found):
                await logs.append(topic, partition, data)
            await logs.delete_before(topic, partition, end)
        finally:
            await logs.close()
