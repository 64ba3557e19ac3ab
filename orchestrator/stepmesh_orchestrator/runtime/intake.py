"""Records of a topic that anybody may write to, on their way in: read by the owner of a partition, its share of the topic.

Invariant: a record is acknowledged when who takes it is done with it: what it asks for is durable, or known, or it lies among the dead
letters with the reason. Whoever is away is waited for. It must not know what records may say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.ports import Broker, TopicReader
from stepmesh_broker.protocol.dead_letters import Source
from stepmesh_broker.protocol.ids import Partition, Pool
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_orchestrator.ports import Clock, StoreError

log = logging.getLogger("stepmesh.intake")
_T = TypeVar("_T")
AT_ONCE = 128
"""Records between two acknowledgements."""
RETRY_S = 0.25
REOPEN_S = 2.0
TOLD_EVERY_S = 5.0
_FETCH_S = 5.0
_SHOWN = 60


class Taker(Protocol):
    """What is done with the records of a topic."""

    @property
    def topic(self) -> Topic:
        """Which one."""
        ...

    async def take(self, records: Sequence[PlainRecord]) -> None:
        """Until all of them are dealt with. Raises `StoreError` that is not retryable."""
        ...


class Intake:
    """Of one partition's share of a topic. `room` returns when the partition can take new work: nothing is read before that."""

    def __init__(
        self, broker: Broker, clock: Clock, taker: Taker, partition: Partition, partitions: int, room: Callable[[], Awaitable[None]]
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._taker = taker
        self._partition = partition
        self._partitions = partitions
        self._room = room
        self._patience = Patience(broker, clock, taker.topic)
        self._reader: TopicReader | None = None
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Until `close`, or this partition has no share. Raises `StoreError` that is not retryable."""
        topic = self._taker.topic
        while not self._closed.is_set():
            try:
                self._reader = reader = await self._broker.records(topic, self._partition, self._partitions)
                if reader is None:
                    return
                await self._read(reader)
            except BrokerError as problem:
                if self._closed.is_set():
                    return
                log.warning("the %s topic is read again later: %s", topic, problem)
            await self._leave()
            await self._clock.sleep(REOPEN_S)

    async def close(self) -> None:
        """What was not acknowledged comes again to the next reader."""
        self._closed.set()
        await self._leave()

    async def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _read(self, reader: TopicReader) -> None:
        while not self._closed.is_set():
            await self._room()
            records = await reader.fetch(AT_ONCE, _FETCH_S)
            if records:
                await self._take(records)
                await reader.ack(records)

    async def _take(self, records: Sequence[PlainRecord]) -> None:
        for record in records:
            if record.problem is not None:
                said = record.problem
                await self._patience.park(record, Refused(said.code, said.message, said.hint))
        known = [record for record in records if record.problem is None]
        if known:
            await self._taker.take(known)


class Patience:
    """With the records of a topic: they wait for who is away, and what nobody can take is parked."""

    def __init__(self, broker: Broker, clock: Clock, topic: Topic) -> None:
        self._broker = broker
        self._clock = clock
        self._topic = topic
        self._told_s = -TOLD_EVERY_S

    async def park(self, record: PlainRecord, refused: Refused) -> None:
        """Among the dead letters, under the topic's name. Of a record that is too large for a dead letter, the beginning is kept."""
        key = f", key {record.key[:_SHOWN].decode(errors='replace')!r}" if record.key else ""
        reason = f"{refused.code} {refused.message} (record {record.place}{key})"
        log.warning("a record of the %s topic cannot be taken and is parked: %s", self._topic, reason)
        kept = record.value[: self._broker.max_message_bytes]
        source = Source.of(record, len(kept)).encoded()
        await self.insist(lambda: self._broker.park(Pool(self._topic), kept, reason, source))

    async def insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Broker and store may be away: then the record waits, and those after it."""
        while True:
            try:
                return await call()
            except (BrokerUnavailable, StoreError) as problem:
                if isinstance(problem, StoreError) and not problem.retryable:
                    raise
                await self.wait(problem)

    async def wait(self, problem: object) -> None:
        """Before it is tried again; said now and then, because many records wait for the same."""
        now = self._clock.monotonic()
        if now - self._told_s >= TOLD_EVERY_S:
            self._told_s = now
            log.warning("records of the %s topic wait: %s", self._topic, problem)
        await self._clock.sleep(RETRY_S)
