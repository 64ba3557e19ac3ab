"""Records of the journal's topic as frames: the one place that knows how a journal lies in Kafka."""

from __future__ import annotations

from stepmesh_orchestrator.journal.log_records import Fold, decode, encode, owner_record
from stepmesh_orchestrator.ports import Frame


class RecordReader:
    """See `FrameReader`. Its anchor is a record that stands for all that were read: whose frames count, and after which one."""

    def __init__(self, anchor: bytes | None = None) -> None:
        first = None if anchor is None else decode(0, anchor).record
        if anchor is not None and first is None:
            raise ValueError("its anchor is no record")
        self._fold = None if first is None else Fold(first)

    def take(self, position: int, data: bytes) -> Frame | None:
        """See the port."""
        record = decode(position, data).record
        if record is None:
            raise ValueError("it is no record of a journal")
        self._fold = self._fold or Fold(record)
        stored = self._fold.take(record)
        return None if stored is None else Frame(stored.sequence, stored.epoch, stored.payload)

    def anchor(self) -> bytes | None:
        """See the port."""
        fold = self._fold
        return None if fold is None or fold.torn else encode(owner_record(fold.head, fold.writer, ""))
