"""Finding one's way in a log of records: where a partition stands, where a frame begins, and the frames from there on.

No search reads the whole log: the newest records tell the head, and a frame is found by halving. In a log that keeps stale owners' records
a reading begins at an anchor some records earlier, from which on it is known which ones count. Must not verify frames nor know brokers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import StoredFrame
from stepmesh_orchestrator.journal.log_records import Fold, Kind, Placed, Record, anchor, decode
from stepmesh_orchestrator.journal.record_log import RecordLog
from stepmesh_orchestrator.journal.rules import Head
from stepmesh_orchestrator.ports import JournalCorrupt

LOOK_BACK = 8
"""Records before the wanted one that are read for an anchor; four times as many when there is none."""


class Standing(NamedTuple):
    """Where a partition stands: `position` is of the newest record, `counting` of the newest that counts and is no trim. `torn`: the last
    frame is not complete."""

    head: Head
    writer: int
    position: int
    counting: int
    torn: bool


class LocatedFrame(NamedTuple):
    """A frame, where its first record lies, and the link that it says to follow."""

    position: int
    previous: bytes
    frame: StoredFrame


class UnreadableRecord(Exception):
    """What lies at the place of the next frame is no record."""


class LogReader:
    """`where` names the journal, for messages."""

    def __init__(self, log: RecordLog, where: str) -> None:
        self._log = log
        self._where = where

    async def standing(self, partition: Partition) -> Standing | None:
        """None when nobody ever owned the partition."""
        count = 1 if self._log.refuses else LOOK_BACK
        tail = await self._log.tail(partition, count)
        while tail.entries:
            records = [decode(*entry) for entry in tail.entries]
            start = anchor(records, self._log.refuses, tail.whole)
            if start is not None:
                return _folded(records[start:])
            if tail.whole:
                raise JournalCorrupt(
                    f"the journal in {self._where} is damaged: partition {partition} has no record that can be read at its end",
                    hint="find out who else writes there",
                )
            count *= 4
            tail = await self._log.tail(partition, count)
        return None

    async def cursor(self, partition: Partition, after: int, standing: Standing) -> Cursor:
        """At the first frame above `after`, or somewhat before it."""
        position = await self._halving(partition, after, standing.position)
        if not self._log.refuses:
            position = await self._anchor_before(partition, after, position, standing.position)
        return Cursor(self._log, partition, position)

    def whole(self, partition: Partition) -> Cursor:
        """At the log's beginning, past whatever cannot be read."""
        return Cursor(self._log, partition, 1, lenient=True)

    async def first(self, partition: Partition, after: int, standing: Standing) -> LocatedFrame | None:
        """The first frame above `after`; None when there is none that can be read."""
        cursor = await self.cursor(partition, after, standing)
        try:
            async for located in cursor.frames(standing.position):
                if located.frame.sequence > after:
                    return located
        except UnreadableRecord:
            pass
        return None

    async def _halving(self, partition: Partition, after: int, last: int) -> int:
        """The lowest position whose record comes after frame `after` is complete; too high by stale records at most."""
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            position, record = await self._record_at(partition, middle, high)
            if record is None or record.sequence > after:
                high = middle
            else:
                low = position + 1
        return min(low, last)

    async def _record_at(self, partition: Partition, position: int, last: int) -> Placed:
        """The first owner or frame at or above a position."""
        while position <= last:
            entry = await self._log.at(partition, position)
            if entry is None:
                break
            placed = decode(*entry)
            if placed.record is not None and placed.record.kind in (Kind.OWNER, Kind.FRAME):
                return placed
            position = placed.position + 1
        return Placed(last, None)

    async def _anchor_before(self, partition: Partition, after: int, position: int, last: int) -> int:
        back = LOOK_BACK
        while True:
            first = max(1, position - back)
            until = min(last, position + LOOK_BACK)
            records = [decode(*entry) async for entry in self._log.scan(partition, first, until)]
            whole = first == 1 or not records or records[0].position > first
            start = anchor(records, False, whole)
            if start is not None and _wholly_before(records[start].record) <= after:
                return records[start].position
            if whole:
                return records[0].position if records else first
            back *= 4


class Cursor:
    """Goes over the frames that count, from an anchor on; `position` is where it goes on. `lenient`: past what is no record."""

    def __init__(self, log: RecordLog, partition: Partition, position: int, lenient: bool = False) -> None:
        self.position = position
        self._lenient = lenient
        self._log = log
        self._partition = partition
        self._fold: Fold | None = None
        self._begin = (0, b"")

    async def frames(self, last: int) -> AsyncGenerator[LocatedFrame, None]:
        """Those that are complete at position `last`. Raises `UnreadableRecord`."""
        async for entry in self._log.scan(self._partition, self.position, last):
            record = decode(*entry).record
            self.position = entry.position + 1
            if record is None:
                if self._lenient:
                    continue
                raise UnreadableRecord
            if self._fold is None:
                if record.kind not in (Kind.OWNER, Kind.FRAME):
                    continue
                self._fold = Fold(record)
            if record.kind is Kind.FRAME and record.part == 1 and self._fold.counts(record):
                self._begin = (entry.position, record.previous)
            frame = self._fold.take(record)
            if frame is not None:
                yield LocatedFrame(*self._begin, frame)


def _wholly_before(record: Record | None) -> int:
    """The last frame of which nothing lies at or after this record."""
    return record.before + (record.part > 1) if record else 0


def _folded(records: list[Placed]) -> Standing:
    fold: Fold | None = None
    counting = records[0].position
    for position, record in records:
        if record is None:
            continue
        fold = fold or Fold(record)
        if fold.counts(record):
            counting = position
        fold.take(record)
    assert fold is not None  # an anchor is a record
    return Standing(fold.head, fold.writer, records[-1].position, counting, fold.torn)
