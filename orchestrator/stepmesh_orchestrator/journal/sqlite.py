"""The Journal port over one SQLite file: a row per frame, an fsync per group of appends.

All writes go through one thread, all reads through another on its own connection, so that a replay never waits for an
append nor an append for a replay. Epochs are checked in the file, inside the transaction that appends: several processes
may open the same journal, and still only the newest owner of a partition writes to it. Must not know what frames hold.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk
from stepmesh_orchestrator.journal.rules import JournalBroken, JournalUnavailable, checked, corrupt
from stepmesh_orchestrator.journal.sqlite_tables import Tables, prepare
from stepmesh_orchestrator.ports import Frame, JournalCorrupt, JournalError, JournalFull, Ownership, Snapshot
from stepmesh_orchestrator.sqlite import Fault, SqliteThread, classify, connect, connect_first, describe

log = logging.getLogger(__name__)

_ERRORS: dict[Fault, type[JournalError]] = {
    Fault.FULL: JournalFull,
    Fault.CORRUPT: JournalCorrupt,
    Fault.LOCKED: JournalUnavailable,
    Fault.DENIED: JournalUnavailable,
    Fault.CLOSED: JournalUnavailable,
    Fault.IO: JournalBroken,
}


class SqliteJournal:
    """The journal in the file `path`, made with its folders if absent. Another process's lock is waited for `busy_seconds`."""

    def __init__(self, path: Path, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._where = str(path.parent)
        self._tables = Tables(self._where, "")
        self._writer = SqliteThread("journal-writer", self._connect_writer, self._translate, "write")
        self._reader = SqliteThread("journal-reader", self._connect_reader, self._translate, "read")

    @property
    def durability(self) -> Literal["fsync"]:
        """See the port."""
        return "fsync"

    @property
    def survives(self) -> str:
        """See the port."""
        return "a crash and power loss, as long as the disk is whole"

    async def open(self) -> None:
        """See the port. SM-4005 when the file cannot be opened or is locked, SM-4006 when it is no journal of this format."""
        await self._writer.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def close(self) -> None:
        """See the port."""
        await self._reader.stop()  # first: the last connection to go empties the write-ahead log, and that must be a writer
        await self._writer.stop()

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        return await self._writer.call(partial(self._tables.acquire, partition=partition, owner=owner))

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port. Appends that wait for the same fsync share a transaction; each is fenced on its own."""
        tables = self._tables
        await self._writer.call(lambda connection: tables.append(connection, partition, epoch, expected, payload))

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """See the port. Reads up to the last frame that is there when the last batch is fetched."""
        walk: ChainWalk | None = None
        while True:
            batch = await self._reader.call(partial(self._tables.batch, partition=partition, after=walk.sequence if walk else after))
            if walk is None:
                walk = ChainWalk(partition, after, batch.link[1], batch.link[0])
            for stored in batch.frames:
                yield checked(self._where, walk, stored)
            if batch.fault or (not batch.more and walk.sequence < batch.head.sequence):
                raise corrupt(self._where, partition, walk.sequence + 1, batch.fault or "the frame is missing")
            if not batch.more:
                return

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        await self._writer.call(partial(self._tables.save_snapshot, partition=partition, epoch=epoch, snapshot=snapshot))

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """See the port."""
        found: list[Snapshot] = []
        for stored, trouble in await self._reader.call(partial(self._tables.snapshots, partition=partition)):
            if trouble:
                log.error("partition %d: the snapshot after frame %d is left out: %s", partition, stored.sequence, trouble)
            else:
                found.append(Snapshot(stored.sequence, stored.payload))
        return found

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        await self._writer.call(partial(self._tables.trim, partition=partition, through=through))

    async def partitions(self) -> Sequence[Partition]:
        """See the port."""
        rows = await self._reader.call(
            lambda connection: connection.execute("SELECT partition FROM owners UNION SELECT DISTINCT partition FROM frames").fetchall()
        )
        return [Partition(row[0]) for row in rows]

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        head = await self._reader.call(partial(self._tables.head, partition=partition))
        return head.trimmed if head else 0

    async def torn(self, partition: Partition) -> bool:
        """Never: a frame is there whole, or not at all."""
        return False

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        rows = await self._reader.call(partial(self._tables.snapshots, partition=partition))
        return [(stored.sequence, trouble) for stored, trouble in rows if trouble]

    def _connect_writer(self) -> sqlite3.Connection:
        connection = connect_first(self._path, self._busy_seconds)
        try:
            self._tables.journal_id = prepare(connection, self._where)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = connect(self._path, self._busy_seconds)
        connection.execute("PRAGMA query_only=ON")
        return connection

    def _translate(self, error: Exception) -> Exception:
        fault = classify(error)
        message, hint = describe(error, f"the journal {self._path}")
        if fault is Fault.CORRUPT:
            hint = f"run: stepmesh journal repair --data {self._where}, which keeps a copy of the damaged file"
        return _ERRORS.get(fault, JournalError)(message, hint=hint)
