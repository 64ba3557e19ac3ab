"""A Kafka topic as a journal's log: one of its partitions per partition, position = offset + 1.

A topic takes every record, so a stale owner's may lie there; the offset that an append returns shows whether anything came in between, and
readers count only what the owner of its time wrote. Without transactions there are no markers: offsets have no gaps. Must not
know what records hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from stepmesh_broker.kafka.topic_log import NoAnswer, TopicLogs
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.record_log import AppendUncertain, Entry, Overtaken, Tail
from stepmesh_orchestrator.journal.rules import JournalUnavailable

_BATCH_BYTES = 4 << 20
LAGS_S = 10.0
"""How long records that must be there are waited for."""


class KafkaLog:
    """The topic `topic`. How many partitions there are is known once the connection is open."""

    refuses = False
    cuts = False

    def __init__(self, logs: TopicLogs, topic: str, where: str) -> None:
        self._logs = logs
        self._topic = topic
        self.count = 0
        self._where = where
        self.max_entry_bytes = 0

    async def tail(self, partition: Partition, count: int) -> Tail:
        """See the protocol."""
        try:
            end = await self._logs.end(self._topic, partition)
        except NoAnswer as problem:
            raise self._unavailable(problem) from problem
        first = max(1, end - count + 1)
        entries = [entry async for entry in self.scan(partition, first, end)]
        return Tail(entries, whole=first == 1 or (bool(entries) and entries[0].position > first))

    async def at(self, partition: Partition, position: int) -> Entry | None:
        """See the protocol."""
        found = await self._fetch(partition, position, 1)
        return found[0] if found else None

    async def scan(self, partition: Partition, first: int, last: int) -> AsyncIterator[Entry]:
        """See the protocol. What is not shown is waited for: a new leader learns after a moment how far its log is safe."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + LAGS_S
        while first <= last:
            batch = await self._fetch(partition, first, _BATCH_BYTES)
            for entry in batch:
                if entry.position > last:
                    return
                yield entry
            if batch:
                first, deadline = batch[-1].position + 1, clock() + LAGS_S
            elif await self._begin(partition) > last:
                return
            elif clock() > deadline:
                raise self._unavailable(NoAnswer(f"record {last} of partition {partition} is not shown"))

    async def append(self, partition: Partition, data: bytes, after: int | None) -> int:
        """See the protocol."""
        try:
            position = await self._logs.append(self._topic, partition, data) + 1
        except NoAnswer as problem:
            raise AppendUncertain(
                f"the journal in {self._where} did not answer: partition {partition}: {problem}",
                hint="is Kafka up, and most of its brokers?",
            ) from problem
        if after is not None and position != after + 1:
            raise Overtaken(position)
        return position

    async def drop_before(self, partition: Partition, position: int) -> None:
        """See the protocol."""
        try:
            await self._logs.delete_before(self._topic, partition, position - 1)
        except NoAnswer as problem:
            raise self._unavailable(problem) from problem

    async def cut(self, partition: Partition, first: int, last: int) -> None:
        """See the protocol: a topic forgets its oldest records, and no others."""
        raise NotImplementedError

    async def partitions(self) -> Sequence[Partition]:
        """See the protocol."""
        try:
            return [Partition(number) for number in range(self.count) if await self._logs.end(self._topic, number)]
        except NoAnswer as problem:
            raise self._unavailable(problem) from problem

    async def _begin(self, partition: Partition) -> int:
        try:
            return await self._logs.begin(self._topic, partition) + 1
        except NoAnswer as problem:
            raise self._unavailable(problem) from problem

    async def _fetch(self, partition: Partition, position: int, size: int) -> list[Entry]:
        try:
            records = await self._logs.fetch(self._topic, partition, position - 1, size)
        except NoAnswer as problem:
            raise self._unavailable(problem) from problem
        return [Entry(record.offset + 1, record.value) for record in records]

    def _unavailable(self, problem: Exception) -> JournalUnavailable:
        return JournalUnavailable(f"the journal in {self._where} does not answer: {problem}", hint="is Kafka up?")
