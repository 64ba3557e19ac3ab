"""The Journal port over PostgreSQL: a row per frame, a statement per append, which checks epoch and sequence where it writes.

Any number of processes share the tables of one namespace, and still only the newest owner of a partition writes to it. Appends of
different partitions run on different connections, so that the server puts their commits into one flush. After a lost connection nothing
is assumed: the append fails, and the next owner reads what is there. Must not know what frames hold.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Literal

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame
from stepmesh_orchestrator.journal.lanes import Lanes
from stepmesh_orchestrator.journal.postgres_tables import SELECT_PARTITIONS, STEPS, Tables
from stepmesh_orchestrator.journal.rules import (
    Head,
    JournalAbsent,
    JournalBroken,
    JournalFormatError,
    JournalUnavailable,
    check_start,
    checked,
    corrupt,
)
from stepmesh_orchestrator.journal.salvage import Kept, Piece, Stored, frame_piece, standing_pieces
from stepmesh_orchestrator.ports import Frame, JournalCorrupt, JournalError, JournalFull, Ownership, Snapshot
from stepmesh_orchestrator.postgres import (
    Connection,
    Fault,
    ForeignSchema,
    PostgresConnections,
    classify,
    describe,
    migrate,
    schema_name,
)

log = logging.getLogger(__name__)

Durability = Literal["fsync", "replicated", "process"]
TIMEOUT_S = 10.0
CONNECTIONS = 16

_ERRORS: dict[Fault, type[JournalError]] = {
    Fault.FULL: JournalFull,
    Fault.CORRUPT: JournalCorrupt,
    Fault.AWAY: JournalUnavailable,
    Fault.DENIED: JournalUnavailable,
    Fault.IO: JournalBroken,
}
_SETTINGS = "SELECT current_setting(name) FROM unnest(%s::text[]) WITH ORDINALITY AS wanted(name, place) ORDER BY place"
_SETTING_NAMES = ["fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names"]


def durability_of(fsync: str, full_page_writes: str, synchronous_commit: str, standbys: str) -> Durability:
    """What a commit survives with these settings of the server. A synchronous standby makes it wait for another machine."""
    if synchronous_commit == "off":
        return "process"
    if standbys and synchronous_commit != "local":
        return "replicated"
    return "fsync" if (fsync, full_page_writes) == ("on", "on") else "process"


def survives_with(fsync: str, full_page_writes: str, synchronous_commit: str, standbys: str) -> str:
    """The same in words."""
    if synchronous_commit == "off":
        return "the end of every Stepmesh process; a crash or power loss of the server takes its last moments (3 × wal_writer_delay)"
    if standbys and synchronous_commit != "local":
        return "the loss of the server or of its standby, not of both"
    if (fsync, full_page_writes) == ("on", "on"):
        return "a crash and power loss, as long as the server's disk is whole"
    return "the crash of every process; power loss of the server may take all of the database"


class PostgresJournal:
    """The journal of `namespace` in the database that `url` names (`postgresql://…`); its schema is made if absent, or with
    `make` false refused (SM-4222). No call takes longer than `timeout_s`, and a little."""

    def __init__(
        self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS, *, make: bool = True
    ) -> None:
        self._schema = schema_name(namespace)
        self._where = f"{without_password(url)}, schema {self._schema}"
        self._tables = Tables(self._where)
        self._make = make
        self._durability: Durability = "process"
        self._survives = "what its server's settings say"
        self._connections = PostgresConnections(url, self._schema, self._translate, connections, timeout_s)
        self._lanes = Lanes(self._insert, self._head)

    @property
    def durability(self) -> Durability:
        """See the port. As the server's settings were at `open`; "process" before."""
        return self._durability

    @property
    def survives(self) -> str:
        """See the port."""
        return self._survives

    async def open(self) -> None:
        """See the port. SM-4005 when the server cannot be reached or refuses us, SM-4006 for another format."""
        try:
            await self._connections.open(self._prepare)
        except ForeignSchema as problem:
            raise JournalFormatError(
                f"the journal in {self._where} is of a newer release: {problem}", hint="run that release, or name another namespace"
            ) from None

    async def close(self) -> None:
        """See the port."""
        await self._lanes.drain()
        self._lanes.forget()
        await self._connections.close()

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        head = await self._connections.transaction(partial(self._tables.acquire, partition=partition, owner=owner), again=False)
        self._lanes.remember(partition, head)
        return Ownership(head.epoch, head.sequence + 1, self._tables.journal_id)

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port."""
        await self._lanes.append(partition, epoch, expected, payload)

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """See the port. Reads up to the last frame that is there when the last batch is fetched."""
        walk: ChainWalk | None = None
        while True:
            at = walk.sequence if walk else after
            batch = await self._connections.snapshot(partial(self._tables.batch, partition=partition, after=at))
            check_start(self._where, partition, batch.head, at)
            walk = walk or ChainWalk(partition, after, batch.link[1], batch.link[0])
            for stored in batch.frames:
                yield checked(self._where, walk, stored)
            if walk.sequence == batch.head.sequence:
                return
            if not batch.frames:
                raise corrupt(self._where, partition, walk.sequence + 1, "the frame is missing")

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        await self._connections.transaction(partial(self._tables.save_snapshot, partition=partition, epoch=epoch, snapshot=snapshot))

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """See the port."""
        found: list[Snapshot] = []
        for stored, trouble in await self._connections.snapshot(partial(self._tables.snapshots, partition=partition)):
            if trouble:
                log.error("partition %d: the snapshot after frame %d is left out: %s", partition, stored.sequence, trouble)
            else:
                found.append(Snapshot(stored.sequence, stored.payload))
        return found

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        await self._connections.transaction(partial(self._tables.trim, partition=partition, through=through))
        await self._connections.run(partial(self._tables.sweep, partition=partition))

    async def partitions(self) -> Sequence[Partition]:
        """See the port."""
        return [Partition(row[0]) for row in await self._connections.run(_partitions)]

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        head = await self._head(partition)
        return head.trimmed if head else 0

    async def torn(self, partition: Partition) -> bool:
        """Never: a frame is there whole, or not at all."""
        return False

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        rows = await self._connections.snapshot(partial(self._tables.snapshots, partition=partition))
        return [(stored.sequence, trouble) for stored, trouble in rows if trouble]

    async def stored(self, partition: Partition) -> Stored:
        """See `Repairable`."""
        return await self._connections.run(partial(self._tables.stored, partition=partition))

    async def stored_frames(self, partition: Partition) -> AsyncIterator[StoredFrame]:
        """See `Repairable`."""
        after = 0
        while True:
            batch = await self._connections.snapshot(partial(self._tables.batch, partition=partition, after=after, checks=False))
            for frame in batch.frames:
                yield frame
            if not batch.frames:
                return
            after = batch.frames[-1].sequence

    async def pieces(self, partition: Partition) -> AsyncIterator[Piece]:
        """See `Repairable`."""
        for piece in standing_pieces(await self.stored(partition)):
            yield piece
        async for frame in self.stored_frames(partition):
            yield frame_piece(frame)

    async def keep(self, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """See `Repairable`."""
        await self._connections.transaction(partial(self._tables.keep, partition=partition, seen=seen, kept=kept), again=False)

    async def _prepare(self, connection: Connection) -> None:
        if not self._make and not (await (await connection.execute("SELECT to_regclass('frames')")).fetchall())[0][0]:
            raise JournalAbsent.of(self._where)
        await migrate(connection, self._schema, "journal", STEPS)
        await self._tables.identify(connection)
        rows = await (await connection.execute(_SETTINGS, (_SETTING_NAMES,))).fetchall()
        said = [str(row[0]) for row in rows]
        self._durability, self._survives = durability_of(*said), survives_with(*said)

    async def _insert(self, partition: Partition, frame: StoredFrame, previous: bytes) -> bool:
        return await self._connections.run(lambda connection: self._tables.insert(connection, partition, frame, previous), again=False)

    async def _head(self, partition: Partition) -> Head | None:
        return await self._connections.run(partial(self._tables.head, partition=partition))

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the journal in {self._where}")
        return _ERRORS.get(classify(error), JournalError)(message, hint=hint)


async def _partitions(connection: Connection) -> list[tuple[int]]:
    return [(row[0],) for row in await (await connection.execute(SELECT_PARTITIONS)).fetchall()]
