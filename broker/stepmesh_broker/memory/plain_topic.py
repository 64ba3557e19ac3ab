"""A topic of plain records of one namespace in memory: a log with one lane and one reader at a time. It must not know what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from stepmesh_broker.errors import InboxTaken
from stepmesh_broker.memory.clock import Clock
from stepmesh_broker.memory.share import ShareLog, ShareReader
from stepmesh_broker.protocol.records import PlainRecord, Topic


class TopicLog(ShareLog[PlainRecord]):
    """Records that nobody acknowledged yet."""

    def __init__(self, topic: Topic, clock: Clock) -> None:
        super().__init__()
        self._topic = topic
        self._clock = clock
        self._positions = count(1)

    def write(self, value: bytes, key: bytes, headers: Mapping[str, bytes], time_ms: int) -> PlainRecord:
        """What a producer does."""
        record = PlainRecord(0, next(self._positions), time_ms, value, key, headers)
        self.put(record)
        return record

    def open(self) -> MemoryTopicReader:
        """A new reader; the present one, if any, is told that it is over."""
        return MemoryTopicReader(self, self._clock, lambda: InboxTaken.of_topic(self._topic))


class MemoryTopicReader(ShareReader[PlainRecord]):
    """`TopicReader` over a `TopicLog`."""

    async def ack(self, records: Sequence[PlainRecord]) -> None:
        """Remove them and all before; nothing when this reader is over."""
        if records:
            self._drop(max(record.position for record in records))
