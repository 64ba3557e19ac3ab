"""One owner of one partition, as this process knows it: what it appends follows what it appended before, and nobody's in between.

What lies in between is looked at: a newer owner, or one that asks for the place, ends this one; trims and stale owners' records do no harm.
After an append whose outcome is not known it appends no more. Must not know which broker it is.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import seal
from stepmesh_orchestrator.journal.log_records import ROOM_BYTES, Kind, Record, decode, encode, frame_records
from stepmesh_orchestrator.journal.record_log import AppendUncertain, Entry, Overtaken, RecordLog
from stepmesh_orchestrator.journal.rules import Head, check_append, check_owner
from stepmesh_orchestrator.ports import JournalError, JournalFull, StaleOwner


class LogOwner:
    """`writer` is its number, `position` that of the newest record that it knows of. `overtaken`: another one has the partition."""

    def __init__(self, log: RecordLog, partition: Partition, head: Head, writer: int, position: int) -> None:
        self.head = head
        self.overtaken = False
        self._log = log
        self._partition = partition
        self._writer = writer
        self._position = position
        self._ended = False

    async def append(self, epoch: int, expected: int, payload: bytes) -> None:
        """The next frame, in as many records as it needs."""
        head = check_append(self._partition, self.head, epoch, expected)
        frame = seal(self._partition, expected, epoch, payload, head.chain)
        for record in frame_records(frame, head, self._writer, self._log.max_entry_bytes - ROOM_BYTES):
            await self.place(record)
        self.head = self.head._replace(sequence=expected, chain=frame.chain)

    async def place(self, record: Record) -> None:
        """One record. Raises `StaleOwner` when another one has the partition."""
        if self._ended:
            raise StaleOwner(f"an append to partition {self._partition} failed, this owner goes on no more", hint="acquire it anew")
        self._ended = True  # until it is known
        try:
            await self._append(encode(record))
        except JournalFull:
            self._ended = False
            raise
        self._ended = False
        self._learn(record)

    async def _append(self, data: bytes) -> None:
        while True:
            try:
                self._position = await self._log.append(self._partition, data, self._position)
                return
            except Overtaken as overtaken:
                if await self._lies_there(data, overtaken.position):
                    return

    async def _lies_there(self, data: bytes, position: int | None) -> bool:
        """Look at what came after the last record; whether `data` did. Raises `StaleOwner`."""
        last = position
        if last is None:
            entries = (await self._log.tail(self._partition, 1)).entries
            last = entries[-1].position if entries else 0
        if last < self._position or last == position == self._position:
            raise JournalError(
                f"the broker lost what it had acknowledged: partition {self._partition} ends before this owner's last record",
                code="SM-4023",
                hint="the next owner goes on from what is there; more replicas, or an fsync for every message, prevent it",
            )
        found, seen = position is not None, self._position
        async for entry in self._log.scan(self._partition, self._position + 1, last):
            found = entry.data == data or found  # sent twice over a lost connection, or what was to be appended
            seen = entry.position
            if entry.data != data:
                self._pass(entry)
        if seen != last:
            message = f"partition {self._partition}: what came before record {last} cannot be seen, a newer owner may be in it"
            raise AppendUncertain(message, hint="the next owner goes on from what is there")
        self._position = last
        return found

    def _pass(self, entry: Entry) -> None:
        """Go past somebody else's record. Raises `StaleOwner` when it ends this owner: one of a newer epoch does, whatever it says, for a
        trim may have taken the owner's."""
        record = decode(*entry).record
        if record is None:
            return
        if record.epoch > self.head.epoch:
            self.overtaken = True
            check_owner(self._partition, self.head._replace(epoch=record.epoch), self.head.epoch)
        if record.kind is Kind.FRAME and record.writer == self._writer:
            self.overtaken = True
            raise StaleOwner(f"another process appends to partition {self._partition} as this owner", hint="acquire it anew")
        self._learn(record)

    def _learn(self, record: Record) -> None:
        if record.trimmed > self.head.trimmed:
            self.head = self.head._replace(trimmed=record.trimmed, trimmed_chain=record.trimmed_chain)
