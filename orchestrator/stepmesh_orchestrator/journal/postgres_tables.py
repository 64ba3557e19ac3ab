"""The PostgreSQL journal's tables and what is done to them, each function on a connection of its caller.

`owners` keeps where each partition stands; since a frame and its owner's row change in one statement, a lost last frame shows. Whoever
changes an owner's row holds its lock, so acquiring and appending never overlap. Must not know pools, nor what frames hold.
"""

from __future__ import annotations

import secrets
from typing import LiteralString, NamedTuple

from psycopg.rows import TupleRow

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import FORMAT, StoredFrame, StoredSnapshot, genesis, seal_snapshot
from stepmesh_orchestrator.journal.rules import (
    KEPT_SNAPSHOTS,
    Head,
    JournalFormatError,
    check_last,
    check_snapshot,
    check_trim,
    check_untouched,
    corrupt,
    snapshot_trouble,
)
from stepmesh_orchestrator.journal.salvage import Kept, Stored
from stepmesh_orchestrator.ports import Snapshot
from stepmesh_orchestrator.postgres import Connection

BATCH_FRAMES = 256
BATCH_BYTES = 4 << 20

STEPS: tuple[tuple[LiteralString, ...], ...] = (
    (
        "CREATE TABLE journal(format integer NOT NULL, journal_id text NOT NULL)",
        """CREATE TABLE owners(partition bigint PRIMARY KEY, epoch bigint NOT NULL, owner text NOT NULL, head bigint NOT NULL,
            head_chain bytea NOT NULL, trimmed bigint NOT NULL, trimmed_chain bytea NOT NULL) WITH (fillfactor=20)""",
        """CREATE TABLE frames(partition bigint NOT NULL, sequence bigint NOT NULL, epoch bigint NOT NULL, crc bigint NOT NULL,
            chain bytea NOT NULL, payload bytea NOT NULL, PRIMARY KEY(partition, sequence)) WITH (toast_tuple_target=8160)""",
        """CREATE TABLE snapshots(partition bigint NOT NULL, sequence bigint NOT NULL, crc bigint NOT NULL, chain bytea NOT NULL,
            payload bytea NOT NULL, PRIMARY KEY(partition, sequence))""",
        "ALTER TABLE frames ALTER payload SET STORAGE EXTERNAL",  # no compression: it costs more than it saves in frames of this size
    ),
)
SELECT_HEAD: LiteralString = "SELECT epoch, head, head_chain, trimmed, trimmed_chain FROM owners WHERE partition=%s"
SELECT_LINK: LiteralString = "SELECT epoch, chain FROM frames WHERE partition=%s AND sequence=%s"
SELECT_LAST: LiteralString = """SELECT sequence, epoch, crc, chain, payload FROM frames WHERE partition=%s AND sequence>%s
    ORDER BY sequence DESC LIMIT 1"""
SELECT_FRAMES: LiteralString = """SELECT sequence, epoch, crc, chain, payload FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before FROM (
        SELECT * FROM frames WHERE partition=%s AND sequence>%s ORDER BY sequence LIMIT %s) AS next) AS sized
    WHERE before < %s OR before IS NULL ORDER BY sequence"""
SELECT_SNAPSHOTS: LiteralString = """SELECT s.sequence, s.crc, s.chain, s.payload, f.chain FROM snapshots s
    LEFT JOIN frames f USING(partition, sequence) WHERE s.partition=%s ORDER BY s.sequence DESC"""
SELECT_PARTITIONS: LiteralString = """WITH RECURSIVE framed(partition) AS (SELECT min(partition) FROM frames
    UNION ALL SELECT (SELECT min(frames.partition) FROM frames WHERE frames.partition>framed.partition) FROM framed
    WHERE framed.partition IS NOT NULL)
    SELECT partition FROM framed WHERE partition IS NOT NULL UNION SELECT partition FROM owners ORDER BY partition"""
INSERT_FRAME: LiteralString = """WITH owned AS (UPDATE owners SET head=%s, head_chain=%b
    WHERE partition=%s AND epoch=%s AND head=%s AND head_chain=%b RETURNING partition)
    INSERT INTO frames SELECT partition, %s, %s, %s, %b, %b FROM owned"""


class Batch(NamedTuple):
    """Frames of one read, unchecked. `link`: epoch and chain before the first."""

    frames: list[StoredFrame]
    link: tuple[int, bytes]
    head: Head


class Tables:
    """The tables of one journal; `where` names it in messages."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.journal_id = ""

    async def identify(self, connection: Connection) -> None:
        """Learn the journal's id; give it one when it is new. Raises `JournalFormatError`."""
        insert = "INSERT INTO journal SELECT %s, %s WHERE NOT EXISTS (SELECT 1 FROM journal)"
        await connection.execute(insert, (FORMAT, secrets.token_hex(16)))
        row = await self._one(connection, "SELECT format, journal_id FROM journal", ())
        if row is None or row[0] != FORMAT:
            message = f"the journal in {self.where} has format {row[0] if row else None}; this release reads format {FORMAT}"
            raise JournalFormatError(message, hint="run the release that wrote it, or name another namespace")
        self.journal_id = str(row[1])

    async def head(self, connection: Connection, partition: Partition) -> Head | None:
        """None when nobody ever owned the partition. Raises `JournalCorrupt` when frames say otherwise."""
        row = await self._one(connection, SELECT_HEAD, (partition,))
        if row is not None:
            return Head(*row)
        if await self._one(connection, SELECT_LAST, (partition, 0)):
            raise corrupt(self.where, partition, 1, "the partition's owner record is missing")
        return None

    async def acquire(self, connection: Connection, partition: Partition, owner: str) -> Head:
        """See the port; where the partition stands, with the new epoch."""
        if await self.head(connection, partition) is None:
            insert = "INSERT INTO owners VALUES(%s, 0, %s, 0, %b, 0, %b) ON CONFLICT DO NOTHING"
            first = genesis(self.journal_id, partition)
            await connection.execute(insert, (partition, owner, first, first))
        head = await self._locked(connection, partition) or self.empty(partition)
        row = await self._one(connection, SELECT_LAST, (partition, head.trimmed))
        if row is not None and row[0] > head.sequence:
            raise corrupt(self.where, partition, row[0], "it is above the last frame that the owner's record names")
        frame = StoredFrame(*row) if row is not None and row[0] == head.sequence else None
        check_last(self.where, partition, head, await self._link(connection, partition, head, head.sequence - 1), frame)
        await connection.execute("UPDATE owners SET epoch=epoch+1, owner=%s WHERE partition=%s", (owner, partition))
        return head._replace(epoch=head.epoch + 1)

    async def insert(self, connection: Connection, partition: Partition, frame: StoredFrame, previous: bytes) -> bool:
        """Add the frame if its writer owns the partition and it is the next one, in one statement."""
        fence = (frame.sequence, frame.chain, partition, frame.epoch, frame.sequence - 1, previous)
        cursor = await connection.execute(INSERT_FRAME, (*fence, *frame), prepare=True)
        return cursor.rowcount == 1

    async def batch(self, connection: Connection, partition: Partition, after: int, checks: bool = True) -> Batch:
        """Frames above `after`, as they were at one moment: the caller's transaction is a snapshot. `checks`: they have an owner."""
        heads = await connection.execute(SELECT_HEAD, (partition,), binary=True)
        links = await connection.execute(SELECT_LINK, (partition, after), binary=True)
        frames = await connection.execute(SELECT_FRAMES, (partition, after, BATCH_FRAMES, BATCH_BYTES), binary=True)
        head, link = await heads.fetchone(), await links.fetchone()
        found = [StoredFrame(*row) for row in await frames.fetchall()]
        if head is None and found and checks:
            raise corrupt(self.where, partition, 1, "the partition's owner record is missing")
        stands = Head(*head) if head else self.empty(partition)
        before = (0, stands.trimmed_chain) if after <= stands.trimmed else (link[0], link[1]) if link else (0, b"")
        return Batch(found, before, stands)

    async def save_snapshot(self, connection: Connection, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        head = check_snapshot(partition, await self._locked(connection, partition), epoch, snapshot.sequence)
        chain = (await self._link(connection, partition, head, snapshot.sequence))[1]
        if not chain:
            raise corrupt(self.where, partition, snapshot.sequence, "the frame is missing")
        upsert = """INSERT INTO snapshots VALUES(%s, %s, %s, %b, %b) ON CONFLICT(partition, sequence)
            DO UPDATE SET crc=excluded.crc, chain=excluded.chain, payload=excluded.payload"""
        await connection.execute(upsert, (partition, *seal_snapshot(partition, snapshot.sequence, chain, snapshot.payload)))
        oldest = "SELECT sequence FROM snapshots WHERE partition=%s ORDER BY sequence DESC OFFSET %s LIMIT 1"
        await connection.execute(
            f"DELETE FROM snapshots WHERE partition=%s AND sequence<=({oldest})", (partition, partition, KEPT_SNAPSHOTS)
        )

    async def snapshots(self, connection: Connection, partition: Partition) -> list[tuple[StoredSnapshot, str]]:
        """All of them, newest first, each with what is wrong with it (empty when it is good)."""
        heads = await connection.execute(SELECT_HEAD, (partition,), binary=True)
        kept = await connection.execute(SELECT_SNAPSHOTS, (partition,), binary=True)
        row = await heads.fetchone()
        head = Head(*row) if row else self.empty(partition)
        found: list[tuple[StoredSnapshot, str]] = []
        for *fields, chain in await kept.fetchall():
            snapshot = StoredSnapshot(*fields)
            link = head.trimmed_chain if snapshot.sequence <= head.trimmed else chain or b""
            found.append((snapshot, snapshot_trouble(partition, head, snapshot, link)))
        return found

    async def stored(self, connection: Connection, partition: Partition) -> Stored:
        """Owner and snapshots, unchecked."""
        row = await self._one(connection, SELECT_HEAD, (partition,))
        snapshots = await connection.execute(SELECT_SNAPSHOTS, (partition,), binary=True)
        found = [StoredSnapshot(*fields) for *fields, _ in await snapshots.fetchall()]
        return Stored(Head(*row) if row else None, genesis(self.journal_id, partition), found)

    async def keep(self, connection: Connection, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """Forget all but `kept`; the caller's transaction lets nobody see it half done."""
        check_untouched(partition, seen, await self._locked(connection, partition))
        head = kept.head._replace(epoch=kept.head.epoch + 1)
        upsert = """INSERT INTO owners(partition, owner, epoch, head, head_chain, trimmed, trimmed_chain)
            VALUES(%s, 'repair', %s, %s, %b, %s, %b) ON CONFLICT(partition) DO UPDATE SET epoch=excluded.epoch, owner=excluded.owner,
            head=excluded.head, head_chain=excluded.head_chain, trimmed=excluded.trimmed, trimmed_chain=excluded.trimmed_chain"""
        await connection.execute(upsert, (partition, *head))
        outside = "DELETE FROM frames WHERE partition=%s AND sequence NOT BETWEEN %s AND %s"
        await connection.execute(outside, (partition, head.trimmed + 1, head.sequence))
        others = "DELETE FROM snapshots WHERE partition=%s AND sequence<>ALL(%s::bigint[])"
        await connection.execute(others, (partition, [snapshot.sequence for snapshot in kept.snapshots]))

    async def trim(self, connection: Connection, partition: Partition, through: int) -> None:
        """Say that the frames are gone: `sweep` deletes them, so that no append waits for that."""
        head = await self._locked(connection, partition) or self.empty(partition)
        if through <= head.trimmed:
            return
        row = await self._one(connection, "SELECT min(sequence) FROM snapshots WHERE partition=%s", (partition,))
        check_trim(partition, row[0] if row else None, through)
        chain = (await self._link(connection, partition, head, through))[1]
        await connection.execute("UPDATE owners SET trimmed=%s, trimmed_chain=%b WHERE partition=%s", (through, chain, partition))

    async def sweep(self, connection: Connection, partition: Partition) -> None:
        """Delete the frames that were trimmed."""
        trimmed = "SELECT trimmed FROM owners WHERE partition=%s"
        await connection.execute(f"DELETE FROM frames WHERE partition=%s AND sequence<=({trimmed})", (partition, partition))

    def empty(self, partition: Partition) -> Head:
        """Where a partition stands that nobody ever owned."""
        first = genesis(self.journal_id, partition)
        return Head(0, 0, first, 0, first)

    async def _locked(self, connection: Connection, partition: Partition) -> Head | None:
        row = await self._one(connection, SELECT_HEAD + " FOR UPDATE", (partition,))
        return Head(*row) if row else None

    async def _link(self, connection: Connection, partition: Partition, head: Head, sequence: int) -> tuple[int, bytes]:
        """Epoch and link of a frame; what stands for it when it is trimmed or missing lets the next check fail."""
        if sequence <= head.trimmed:
            return 0, head.trimmed_chain
        row = await self._one(connection, SELECT_LINK, (partition, sequence))
        return (row[0], row[1]) if row else (0, b"")

    async def _one(self, connection: Connection, select: LiteralString, values: tuple[object, ...]) -> TupleRow | None:
        return await (await connection.execute(select, values, binary=True)).fetchone()
