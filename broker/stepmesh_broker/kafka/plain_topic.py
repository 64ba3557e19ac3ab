"""A topic to which any producer may write: a share of its partitions, read by hand from where the group's offsets stand.

Invariant: an offset is committed when all records below it are dealt with. Two readers of one share do no harm but work: what both read
is the same record. It must not know what records say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.stopping import stop
from stepmesh_broker.kafka.topics import BATCH_BYTES, HEADER_ROOM, Topics
from stepmesh_broker.kafka.undecodable import UNDECODABLE, BadBatches
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.records import PlainRecord

_log = logging.getLogger(__name__)
LOOK_EVERY_S = 15.0
"""How often it is asked whether the topic grew, or was lost."""
_LONG_POLL_MS = 200
_COMMIT_S = 5.0
_POLL_S = 0.5


class KafkaTopicReader:
    """`TopicReader` of the topic's partitions `p` with `p % partitions == partition`. The group of the same name as the topic has offsets
    and no members, so lag is seen by the usual tools."""

    def __init__(self, settings: KafkaSettings, topics: Topics, topic: str, partition: Partition, partitions: int) -> None:
        self._settings = settings
        self._topics = topics
        self._partition = partition
        self._partitions = partitions
        self._topic = topic
        self._lanes: list[TopicPartition] = []
        self._next: dict[int, int] = {}
        self._bad = BadBatches()
        self._consumer: Any = None
        self._look_due = 0.0
        self._using = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        """Raises `BrokerError`."""
        count = await self._topics.ensure(self._topic)
        consumer = AIOKafkaConsumer(
            **self._settings.client_options,
            group_id=self._topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",  # what its producer took back was never said
            fetch_max_wait_ms=_LONG_POLL_MS,
            max_partition_fetch_bytes=max(self._settings.max_message_bytes, BATCH_BYTES) + HEADER_ROOM,
            retry_backoff_ms=50,
        )
        try:
            await consumer.start()
        except BaseException as problem:
            await stop(consumer)
            if not isinstance(problem, KafkaError | OSError):
                raise
            raise BrokerUnavailable(f"{self._topic} cannot be read: {problem!r}", hint="is Kafka up?") from problem
        self._consumer = consumer
        self._assign(count)

    @property
    def is_closed(self) -> bool:
        """Whether it reads no more."""
        return self._closed

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[PlainRecord]:
        """Up to `max_messages` as soon as there is one. Raises `BrokerUnavailable`, also once closed."""
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            left = until - asyncio.get_running_loop().time()
            async with self._using:
                if self._closed:
                    raise BrokerUnavailable("this reader is closed")
                await self._look()
                found = await self._records(max_messages, max(0.0, min(left, _POLL_S)))
            if found or left <= 0 or self._closed:
                return found

    async def ack(self, records: Sequence[PlainRecord]) -> None:
        """Commit. Offsets of a topic that was lost meanwhile are not."""
        done: dict[TopicPartition, int] = {}
        for record in records:
            if record.position < self._next.get(record.lane, 0):
                place = TopicPartition(self._topic, record.lane)
                done[place] = max(done.get(place, 0), record.position + 1)
        if not done or self._closed:
            return
        try:
            async with asyncio.timeout(_COMMIT_S):
                await self._consumer.commit(done)
        except (KafkaError, TimeoutError) as problem:
            _log.info("%s: what was read is committed with what comes next: %r", self._topic, problem)

    async def close(self) -> None:
        """Stop reading. A waiting `fetch` returns empty."""
        if self._closed:
            return
        self._closed = True
        if self._consumer is not None:
            async with self._using:
                await stop(self._consumer)

    async def _records(self, max_messages: int, timeout_s: float) -> list[PlainRecord]:
        if not self._lanes:
            await asyncio.sleep(timeout_s)
            return []
        try:
            said = await self._bad.read(self._consumer, self._lanes)
            if said is not None:
                return [self._record(said[0].partition, record) for record in said[1]]
            return await self._readable(max_messages, timeout_s)
        except UNDECODABLE:
            self._go_back()
            self._bad.suspect(self._lanes)
            return []
        except KafkaError as problem:
            raise BrokerUnavailable(
                f"{self._topic} cannot be read: {problem!r}", hint="is Kafka up, and may this user read it?"
            ) from problem

    async def _readable(self, max_messages: int, timeout_s: float) -> list[PlainRecord]:
        lanes = [place for place in self._lanes if place not in self._bad.stuck]
        if not lanes:
            await asyncio.sleep(timeout_s)
            return []
        pages = await self._consumer.getmany(*lanes, timeout_ms=round(timeout_s * 1000), max_records=max_messages)
        return [self._record(place.partition, record) for place, page in pages.items() for record in page]

    def _go_back(self) -> None:
        """What the client had at hand of other partitions is lost with its error: they are read from where their records went out last."""
        self._consumer.assign(self._lanes)
        for place in self._lanes:
            if place.partition in self._next:
                self._consumer.seek(place, self._next[place.partition])

    def _record(self, lane: int, record: Any) -> PlainRecord:
        if isinstance(record, PlainRecord):
            self._next[lane] = record.position + 1
            return record
        self._next[lane] = record.offset + 1
        headers = {name.lower(): value or b"" for name, value in record.headers}
        return PlainRecord(lane, record.offset, record.timestamp or 0, record.value or b"", record.key or b"", headers)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._look_due:
            return
        count = await self._topics.ensure(self._topic, again=True)
        self._assign(count)

    def _assign(self, count: int) -> None:
        """Where it stands stays: partitions that are read already are not assigned anew."""
        self._look_due = asyncio.get_running_loop().time() + LOOK_EVERY_S
        lanes = [TopicPartition(self._topic, lane) for lane in range(self._partition, count, self._partitions)]
        if lanes != self._lanes:
            self._lanes = lanes
            self._consumer.assign(lanes)
