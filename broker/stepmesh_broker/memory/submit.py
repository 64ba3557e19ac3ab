"""The submit topic of one namespace in memory: a log with one lane and one reader at a time. It must not know what a record says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from stepmesh_broker.errors import InboxTaken
from stepmesh_broker.memory.clock import Clock
from stepmesh_broker.memory.share import ShareLog, ShareReader
from stepmesh_broker.protocol.submission import SubmittedRecord


class SubmitLog(ShareLog[SubmittedRecord]):
    """Records that nobody acknowledged yet."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._positions = count(1)

    def write(self, value: bytes, key: bytes, headers: Mapping[str, bytes], time_ms: int) -> SubmittedRecord:
        """What a producer does."""
        record = SubmittedRecord(0, next(self._positions), time_ms, value, key, headers)
        self.put(record)
        return record

    def open(self) -> MemorySubmitReader:
        """A new reader; the present one, if any, is told that it is over."""
        return MemorySubmitReader(self, self._clock, InboxTaken.of_submissions)


class MemorySubmitReader(ShareReader[SubmittedRecord]):
    """`SubmitReader` over a `SubmitLog`."""

    async def ack(self, records: Sequence[SubmittedRecord]) -> None:
        """Remove them and all before; nothing when this reader is over."""
        if records:
            self._drop(max(record.position for record in records))
