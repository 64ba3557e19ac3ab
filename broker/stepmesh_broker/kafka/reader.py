"""Reads partitions by hand, from offsets that are given: one consumer for all of a connection's inboxes and talk.

Invariant: a sink gets the records of its partition in order, each once per `read`. It must not know what they say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stepmesh_broker.ending import cancelled
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.stopping import stop
from stepmesh_broker.kafka.topics import HEADER_ROOM

_log = logging.getLogger(__name__)
LONG_POLL_MS = 200
"""How long the broker holds a fetch open; a partition that is added waits so long at most."""
_RETRY_S = 0.1
CAREFUL_S = 10.0
"""For so long after an error each partition is asked alone ..."""
_ALONE_S = 0.02
"""... with such pauses, and one that fails so rarely:"""
_REST_S = 1.0
Records = Sequence[Any]
Sink = Callable[[Records], None]


class _Place:
    __slots__ = ("offset", "paused", "rests_until", "sink")

    def __init__(self, offset: int, sink: Sink) -> None:
        self.offset = offset
        self.sink = sink
        self.paused = False
        self.rests_until = 0.0


class LogReader:
    """Use: `start`, then `read` and `leave` as often as needed, then `close`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._places: dict[TopicPartition, _Place] = {}
        self._some = asyncio.Event()
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        self._consumer = AIOKafkaConsumer(
            **self._settings.client_options,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=LONG_POLL_MS,
            max_partition_fetch_bytes=self._settings.max_message_bytes + HEADER_ROOM,
            retry_backoff_ms=50,
        )
        await self._consumer.start()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="stepmesh kafka reader")

    async def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            await cancelled([self._task])
            self._task = None
        if self._consumer is not None:
            await stop(self._consumer)

    def read(self, partition: TopicPartition, offset: int, sink: Sink) -> None:
        """From `offset` on, or from the oldest record when that is gone. Whoever read this partition here reads it no more."""
        self._places[partition] = _Place(offset, sink)
        self._assign()

    def leave(self, partition: TopicPartition, sink: Sink) -> None:
        """Read it no more, if it is this sink's."""
        place = self._places.get(partition)
        if place is not None and place.sink == sink:
            del self._places[partition]
            self._assign()

    def offset(self, partition: TopicPartition) -> int:
        """The next one that a sink gets."""
        place = self._places.get(partition)
        return place.offset if place is not None else 0

    def pause(self, partition: TopicPartition) -> None:
        """Take nothing more for now."""
        place = self._places.get(partition)
        if place is not None and not place.paused:
            place.paused = True
            self._consumer.pause(partition)

    def resume(self, partition: TopicPartition) -> None:
        """Go on."""
        place = self._places.get(partition)
        if place is not None and place.paused:
            place.paused = False
            self._consumer.resume(partition)

    def _assign(self) -> None:
        if not self._places:
            self._consumer.unsubscribe()
            self._some.clear()
            return
        self._consumer.assign(list(self._places))
        for partition, place in self._places.items():
            self._consumer.seek(partition, place.offset)
            if place.paused:
                self._consumer.pause(partition)
        self._some.set()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        careful_until = 0.0
        while True:
            await self._some.wait()
            try:
                if clock() < careful_until:
                    await self._each_alone()
                else:
                    self._arrived(await self._consumer.getmany(timeout_ms=1000))
            except KafkaError as problem:
                _log.warning("reading goes on after: %r", problem)
                careful_until = clock() + CAREFUL_S
                await asyncio.sleep(_RETRY_S)
                self._assign()  # what was taken for the answer that failed is read again

    async def _each_alone(self) -> None:
        """A partition whose next record cannot be read must not take those of others with it."""
        await asyncio.sleep(_ALONE_S)
        now = asyncio.get_running_loop().time()
        for partition in [partition for partition, place in self._places.items() if place.rests_until <= now]:
            try:
                self._arrived(await self._consumer.getmany(partition, timeout_ms=0))
            except KafkaError as problem:
                place = self._places.get(partition)
                if place is not None:
                    _log.error(
                        "partition %d of %s is not read beyond offset %d: %r", partition.partition, partition.topic, place.offset, problem
                    )
                    place.rests_until = now + _REST_S
                    self._consumer.seek(partition, place.offset)

    def _arrived(self, found: Mapping[TopicPartition, Records]) -> None:
        """All offsets first: a sink may assign anew, and then what is not noted yet would be read once more."""
        arrived = [(partition, self._places[partition], records) for partition, records in found.items() if partition in self._places]
        for _, place, records in arrived:
            place.offset = records[-1].offset + 1
        for partition, place, records in arrived:
            if self._places.get(partition) is place:
                self._hand_over(place, records)

    def _hand_over(self, place: _Place, records: Records) -> None:
        try:
            place.sink(records)
        except Exception:
            _log.exception("records of %s were not understood", records[0].topic)
