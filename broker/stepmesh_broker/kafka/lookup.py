"""Questions to a log that somebody waits for: its first record, all of it, where it ends.

Invariant: one question at a time, each with a deadline; nothing is fetched in between. It must not know what records say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.stopping import stop
from stepmesh_broker.kafka.topics import HEADER_ROOM

_LONG_POLL_MS = 20
_ANSWER_S = 5.0


class LookUp:
    """Use: `start`, then anything, then `close`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: Any = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        self._consumer = AIOKafkaConsumer(
            **self._settings.client_options,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=_LONG_POLL_MS,
            max_partition_fetch_bytes=self._settings.max_message_bytes + HEADER_ROOM,
            retry_backoff_ms=50,
        )
        await self._consumer.start()

    async def close(self) -> None:
        """Idempotent."""
        if self._consumer is not None:
            await stop(self._consumer)

    async def first(self, partition: TopicPartition) -> Any | None:
        """The oldest record, None when there is none. Raises `BrokerUnavailable`."""
        records = await self._read(partition, most=1)
        return records[0] if records else None

    async def everything(self, partition: TopicPartition) -> Sequence[Any]:
        """All records that are there now. Raises `BrokerUnavailable`."""
        return await self._read(partition, most=None)

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset that the next record of each gets. Raises `BrokerUnavailable`."""
        async with self._busy:
            ends: dict[TopicPartition, int] = await self._asked(self._consumer.end_offsets(list(partitions)), partitions[0].topic)
            return ends

    async def _read(self, partition: TopicPartition, most: int | None) -> list[Any]:
        async with self._busy:
            try:
                records: list[Any] = await self._asked(self._collect(partition, most), partition.topic)
                return records
            finally:
                self._consumer.unsubscribe()

    async def _collect(self, partition: TopicPartition, most: int | None) -> list[Any]:
        end = (await self._consumer.end_offsets([partition]))[partition]
        begin = (await self._consumer.beginning_offsets([partition]))[partition]
        records: list[Any] = []
        if begin < end:
            self._consumer.assign([partition])
            self._consumer.seek(partition, begin)
            while await self._consumer.position(partition) < end and (most is None or len(records) < most):
                found = await self._consumer.getmany(partition, timeout_ms=100, max_records=most)
                records += found.get(partition, [])
        return [record for record in records if record.offset < end]

    async def _asked(self, question: Any, topic: str) -> Any:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await question
        except (KafkaError, TimeoutError) as problem:
            raise BrokerUnavailable(f"{topic} cannot be read: {problem!r}", hint="is Kafka up?") from problem
