"""What a journal keeps in a broker's log: a frame as one record, or as several parts of it; who owns the partition; how far it is trimmed.

Every record carries where the partition stood when it was written, so the newest ones tell the head without reading the rest. A record
counts when its writer is the one that the last valid owner record before it names: a log that cannot refuse a stale owner's record
still has one history, the one that `Fold` goes through. Pure; must not know which broker it is.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from stepmesh_orchestrator.journal.framing import StoredFrame
from stepmesh_orchestrator.journal.rules import Head

ROOM_BYTES = 512
"""Of a record, for all that is not payload."""


class Kind(enum.IntEnum):
    """What a record says."""

    OWNER = 0
    FRAME = 1
    TRIM = 2
    CLAIM = 3


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`writer` is the number that its owner drew when it acquired. `previous` is the link before: of the frame before, or, for all but a
    frame, of the last frame, which is `sequence` then. `trimmed` and its link are what the writer knew.
    """

    kind: Kind
    epoch: int
    writer: int
    sequence: int
    previous: bytes
    trimmed: int
    trimmed_chain: bytes
    crc: int = 0
    chain: bytes = b""
    part: int = 1
    parts: int = 1
    payload: bytes = b""

    @property
    def before(self) -> int:
        """The last frame before this record."""
        return self.sequence - 1 if self.kind is Kind.FRAME else self.sequence


class Placed(NamedTuple):
    """A record and where it lies; None: what lies there is no record of this format."""

    position: int
    record: Record | None


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def decode(position: int, data: bytes) -> Placed:
    """The record at a position."""
    try:
        return Placed(position, _decode(data))
    except msgspec.DecodeError:
        return Placed(position, None)


def owner_record(head: Head, writer: int, owner: str) -> Record:
    """Says who appends from now on, with the epoch of `head`."""
    return _standing(Kind.OWNER, head, writer, owner.encode()[:ROOM_BYTES])


def trim_record(head: Head, writer: int) -> Record:
    """Says that the frames up to `head.trimmed` are forgotten."""
    return _standing(Kind.TRIM, head, writer, b"")


def claim_record(head: Head, writer: int) -> Record:
    """Says that the owner before the epoch of `head` must stop, and nothing else: it lies wherever the log put it."""
    return _standing(Kind.CLAIM, head, writer, b"")


def frame_records(frame: StoredFrame, head: Head, writer: int, limit: int) -> Iterator[Record]:
    """The frame that follows `head`, in parts of at most `limit` bytes; the last one completes it."""
    parts = max(1, -(-len(frame.payload) // limit))
    for part in range(1, parts + 1):
        piece = frame.payload[(part - 1) * limit : part * limit]
        yield Record(
            Kind.FRAME,
            frame.epoch,
            writer,
            frame.sequence,
            head.chain,
            head.trimmed,
            head.trimmed_chain,
            frame.crc,
            frame.chain,
            part,
            parts,
            piece,
        )


def anchor(records: list[Placed], refuses: bool, whole: bool) -> int | None:
    """Index of the first record that is known to count where it lies; from it on a `Fold` knows which ones count.

    In a log that refuses stale ones that is any but a claim. In another: a writer makes sure, before it writes again, that no owner came
    before its last record, so one that wrote again counted; and so does the first record of the `whole` log.
    """
    again: set[int] = set()
    found: int | None = None
    for index in range(len(records) - 1, -1, -1):
        record = records[index].record
        if record is None or record.kind is Kind.CLAIM:
            continue
        if refuses or (whole and not index):
            found = index
        elif record.kind is not Kind.TRIM:
            found = index if record.writer in again else found
            again.add(record.writer)
    return found


class Fold:
    """Goes over a partition's records in order, beginning with its anchor."""

    def __init__(self, first: Record) -> None:
        self.head = Head(first.epoch, first.before, first.previous, first.trimmed, first.trimmed_chain)
        self.writer = first.writer
        self._parts: list[Record] = []

    @property
    def torn(self) -> bool:
        """Whether the last frame is not complete."""
        return bool(self._parts)

    def counts(self, record: Record) -> bool:
        """Whether it is of the owner of its time, or a new owner."""
        return record.kind in (Kind.OWNER, Kind.FRAME) and (record.writer == self.writer or self._takes_over(record))

    def take(self, record: Record) -> StoredFrame | None:
        """Go on to the next record; the frame that it completes."""
        if record.trimmed > self.head.trimmed:
            self.head = self.head._replace(trimmed=record.trimmed, trimmed_chain=record.trimmed_chain)
        if record.kind is Kind.OWNER:
            if self._takes_over(record):
                self.head, self.writer = self.head._replace(epoch=record.epoch), record.writer
                self._parts.clear()
            return None
        return self._frame(record) if record.kind is Kind.FRAME and record.writer == self.writer else None

    def _takes_over(self, record: Record) -> bool:
        return record.kind is Kind.OWNER and record.epoch > self.head.epoch

    def _frame(self, record: Record) -> StoredFrame | None:
        if record.part == 1:  # what was there of it before was not completed
            self._parts.clear()
        self._parts.append(record)
        if record.part != record.parts:
            return None
        payload = record.payload if record.parts == 1 else b"".join(part.payload for part in self._parts)
        self._parts.clear()
        self.head = self.head._replace(sequence=record.sequence, chain=record.chain)
        return StoredFrame(record.sequence, record.epoch, record.crc, record.chain, payload)


def _standing(kind: Kind, head: Head, writer: int, payload: bytes) -> Record:
    return Record(kind, head.epoch, writer, head.sequence, head.chain, head.trimmed, head.trimmed_chain, chain=head.chain, payload=payload)
