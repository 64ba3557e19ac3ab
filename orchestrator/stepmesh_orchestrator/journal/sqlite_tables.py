"""The SQLite journal's tables and what is done to them: synchronous, each function inside one transaction of its caller.

`owners` keeps where each partition stands; since a frame and its owner's row change together, a lost last frame shows.
`meta` names format and journal. Must not know threads or asyncio.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import FORMAT, StoredFrame, StoredSnapshot, genesis, seal, seal_snapshot
from stepmesh_orchestrator.journal.rules import (
    KEPT_SNAPSHOTS,
    Head,
    JournalFormatError,
    check_append,
    check_last,
    check_snapshot,
    check_start,
    check_trim,
    corrupt,
    snapshot_trouble,
)
from stepmesh_orchestrator.ports import Ownership, Snapshot
from stepmesh_orchestrator.sqlite import ERRORS, Fault, classify

APPLICATION_ID = 0x53544D4A  # "STMJ" in the file's header: https://www.sqlite.org/fileformat.html#application_id
BATCH_FRAMESS = 256
BATCH_BYTES = 4 << 20

_SCHEMA = (
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE owners(partition INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL,
        head INTEGER NOT NULL, head_chain BLOB NOT NULL, trimmed INTEGER NOT NULL, trimmed_chain BLOB NOT NULL)""",
    """CREATE TABLE frames(partition INTEGER NOT NULL, sequence INTEGER NOT NULL, epoch INTEGER NOT NULL, crc INTEGER NOT NULL,
        chain BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(partition, sequence)) WITHOUT ROWID""",
    """CREATE TABLE snapshots(partition INTEGER NOT NULL, sequence INTEGER NOT NULL, crc INTEGER NOT NULL,
        chain BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(partition, sequence)) WITHOUT ROWID""",
)
SELECT_HEAD = "SELECT epoch, head, head_chain, trimmed, trimmed_chain FROM owners WHERE partition=?"
SELECT_FRAMES = "SELECT sequence, epoch, crc, chain, payload FROM frames WHERE partition=? AND sequence"
SELECT_SNAPSHOTS = "SELECT sequence, crc, chain, payload FROM snapshots WHERE partition=? ORDER BY sequence DESC"


class Batch(NamedTuple):
    """Frames of one read. `fault`: why the rest cannot be read; `more`: there is a rest; `link`: epoch and chain before the first."""

    frames: list[StoredFrame]
    link: tuple[int, bytes]
    head: Head
    more: bool
    fault: str


class Tables:
    """The tables of one journal; `where` is its data folder, for messages."""

    def __init__(self, where: str, journal_id: str) -> None:
        self.where = where
        self.journal_id = journal_id

    def head(self, connection: sqlite3.Connection, partition: Partition) -> Head | None:
        """None when nobody ever owned the partition. Raises `JournalCorrupt` when frames say otherwise."""
        row = connection.execute(SELECT_HEAD, (partition,)).fetchone()
        if row is not None:
            return Head(*row)
        if connection.execute("SELECT 1 FROM frames WHERE partition=?", (partition,)).fetchone():
            raise corrupt(self.where, partition, 1, "the partition's owner record is missing")
        return None

    def acquire(self, connection: sqlite3.Connection, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        head = self.head(connection, partition) or self._empty(partition)
        last = connection.execute(SELECT_FRAMES + ">? ORDER BY sequence DESC LIMIT 1", (partition, head.trimmed)).fetchone()
        if last is not None and last[0] > head.sequence:
            raise corrupt(self.where, partition, last[0], "it is above the last frame that the owner's record names")
        frame = StoredFrame(*last) if last is not None and last[0] == head.sequence else None
        check_last(self.where, partition, head, self._link(connection, partition, head, head.sequence - 1), frame)
        epoch = head.epoch + 1
        connection.execute(
            """INSERT INTO owners VALUES(?,?,?,?,?,?,?) ON CONFLICT(partition) DO UPDATE SET epoch=excluded.epoch, owner=excluded.owner""",
            (partition, epoch, owner, head.sequence, head.chain, head.trimmed, head.trimmed_chain),
        )
        return Ownership(epoch, head.sequence + 1, self.journal_id)

    def append(self, connection: sqlite3.Connection, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port."""
        head = check_append(partition, self.head(connection, partition), epoch, expected)
        frame = seal(partition, expected, epoch, payload, head.chain)
        connection.execute("INSERT INTO frames VALUES(?,?,?,?,?,?)", (partition, *frame))
        connection.execute("UPDATE owners SET head=?, head_chain=? WHERE partition=?", (expected, frame.chain, partition))

    def batch(self, connection: sqlite3.Connection, partition: Partition, after: int) -> Batch:
        """The next frames above `after`, unchecked."""
        head = self.head(connection, partition) or self._empty(partition)
        check_start(self.where, partition, head, after)
        link = self._link(connection, partition, head, after)
        frames: list[StoredFrame] = []
        size = 0
        try:
            for row in connection.execute(SELECT_FRAMES + ">? ORDER BY sequence", (partition, after)):
                frames.append(StoredFrame(*row))
                size += len(row[4])
                if len(frames) == BATCH_FRAMESS or size >= BATCH_BYTES:
                    return Batch(frames, link, head, True, "")
        except ERRORS as error:
            if classify(error) is not Fault.CORRUPT:
                raise
            return Batch(frames, link, head, False, str(error))
        return Batch(frames, link, head, False, "")

    def save_snapshot(self, connection: sqlite3.Connection, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        head = check_snapshot(partition, self.head(connection, partition), epoch, snapshot.sequence)
        chain = self._link(connection, partition, head, snapshot.sequence)[1]
        if not chain:
            raise corrupt(self.where, partition, snapshot.sequence, "the frame is missing")
        stored = seal_snapshot(partition, snapshot.sequence, chain, snapshot.payload)
        connection.execute("INSERT OR REPLACE INTO snapshots VALUES(?,?,?,?,?)", (partition, *stored))
        newest = "SELECT sequence FROM snapshots WHERE partition=?1 ORDER BY sequence DESC LIMIT ?2"
        connection.execute(f"DELETE FROM snapshots WHERE partition=?1 AND sequence NOT IN ({newest})", (partition, KEPT_SNAPSHOTS))

    def snapshots(self, connection: sqlite3.Connection, partition: Partition) -> list[tuple[StoredSnapshot, str]]:
        """All of them, newest first, each with what is wrong with it (empty when it is good)."""
        head = self.head(connection, partition) or self._empty(partition)
        rows = [StoredSnapshot(*row) for row in connection.execute(SELECT_SNAPSHOTS, (partition,))]
        return [(row, snapshot_trouble(partition, head, row, self._link(connection, partition, head, row.sequence)[1])) for row in rows]

    def trim(self, connection: sqlite3.Connection, partition: Partition, through: int) -> None:
        """See the port."""
        head = self.head(connection, partition) or self._empty(partition)
        if through <= head.trimmed:
            return
        oldest = connection.execute("SELECT min(sequence) FROM snapshots WHERE partition=?", (partition,)).fetchone()[0]
        check_trim(partition, oldest, through)
        chain = self._link(connection, partition, head, through)[1]
        connection.execute("UPDATE owners SET trimmed=?, trimmed_chain=? WHERE partition=?", (through, chain, partition))
        connection.execute("DELETE FROM frames WHERE partition=? AND sequence<=?", (partition, through))

    def _empty(self, partition: Partition) -> Head:
        first = genesis(self.journal_id, partition)
        return Head(0, 0, first, 0, first)

    def _link(self, connection: sqlite3.Connection, partition: Partition, head: Head, sequence: int) -> tuple[int, bytes]:
        """Epoch and link of a frame; what stands for it when it is trimmed or missing lets the next check fail."""
        if sequence <= head.trimmed:
            return 0, head.trimmed_chain
        row = connection.execute("SELECT epoch, chain FROM frames WHERE partition=? AND sequence=?", (partition, sequence)).fetchone()
        return (row[0], row[1]) if row else (0, b"")


def prepare(connection: sqlite3.Connection, where: str) -> str:
    """Make the tables in an empty file; the journal's id. Raises `JournalFormatError` for any other file or format."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            create(connection, secrets.token_hex(16))
        journal_id = identify(connection, where)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return journal_id


def create(connection: sqlite3.Connection, journal_id: str) -> None:
    """The tables of a new journal."""
    for statement in (*_SCHEMA, f"PRAGMA application_id={APPLICATION_ID}"):
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES('format', ?), ('journal_id', ?)", (str(FORMAT), journal_id))


def identify(connection: sqlite3.Connection, where: str) -> str:
    """The journal's id. Raises `JournalFormatError` when the file is no journal, or one of another format."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalFormatError(f"the file in {where} is a SQLite database, but no journal", hint="name another data folder")
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("format") != str(FORMAT):
        message = f"the journal in {where} has format {meta.get('format')}; this release reads format {FORMAT}"
        raise JournalFormatError(message, hint="run the release that wrote it, or name another data folder")
    return str(meta["journal_id"])
