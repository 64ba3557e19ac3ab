"""The Journal port over Redis: a stream per partition, a script per append, which checks epoch and sequence where it writes.

Any number of processes share the keys of one namespace, and still only the newest owner of a partition writes to it. Where the server has
replicas, an append returns when one of them has it as well; what that is worth is said by `durability`. Must not know what frames hold.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame
from stepmesh_orchestrator.journal.lanes import Lanes
from stepmesh_orchestrator.journal.redis_scripts import APPEND
from stepmesh_orchestrator.journal.redis_tables import Tables, packed
from stepmesh_orchestrator.journal.rules import Head, JournalUnavailable, check_start, checked, corrupt
from stepmesh_orchestrator.journal.salvage import Kept, Piece, Stored, frame_piece, standing_pieces
from stepmesh_orchestrator.ports import Frame, JournalError, JournalFull, Ownership, Snapshot
from stepmesh_orchestrator.redis import Fault, RedisConnections, classify, describe

log = logging.getLogger(__name__)

Durability = Literal["fsync", "replicated", "process"]
TIMEOUT_S = 10.0
CONNECTIONS = 16
FIRST_BATCH, LARGEST_BATCH = 16, 256
BATCH_BYTES = 4 << 20

_ERRORS: dict[Fault, type[JournalError]] = {
    Fault.FULL: JournalFull,
    Fault.AWAY: JournalUnavailable,
    Fault.DENIED: JournalUnavailable,
}


def durability_of(settings: Sequence[Mapping[str, Any]], replicas: int, is_cluster: bool) -> Durability:
    """What an append survives. `settings`: of each server, empty when they do not tell. A cluster fails over to replicas that may lack what
    was answered, so with them its own disks count for nothing."""
    if replicas:
        return "process" if is_cluster else "replicated"
    synced = [(said.get("appendonly"), said.get("appendfsync")) == ("yes", "always") for said in settings]
    return "fsync" if synced and all(synced) else "process"


def survives_with(settings: Sequence[Mapping[str, Any]], replicas: int, is_cluster: bool) -> str:
    """The same in words."""
    if replicas and is_cluster:
        return "the crash of a process, unless a replica takes over: that takes what it had not seen, about the last second"
    if replicas:
        return "the loss of a server, when the replica that takes over is the one that confirmed it"
    if not settings or not all(settings):
        return "what the server's settings say, which it does not tell"
    if any(said.get("appendonly") != "yes" for said in settings):
        return "the end of every Stepmesh process; a restart of the server takes all since its last snapshot (RDB)"
    flushes = {str(said.get("appendfsync")) for said in settings}
    if flushes == {"always"}:
        return "a crash and power loss, as long as the server's disk is whole"
    lost = "the last second or two" if flushes <= {"always", "everysec"} else "what its system had not flushed"
    return f"the crash of every process; power loss of the server takes {lost}, the loss of its disk everything"


class RedisJournal:
    """The journal of `namespace` in the server that `url` names (`redis://…`, `rediss://…`), or in its cluster. An answer that takes longer
    than `timeout_s` is an error. `make`: False refuses one that is not there (SM-4222)."""

    def __init__(
        self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS, *, make: bool = True
    ) -> None:
        self._where = f"{without_password(url)}, namespace {namespace}"
        self._connections = RedisConnections(url, self._translate, connections, timeout_s)
        self._tables = Tables(self._connections, namespace, self._where)
        self._lanes = Lanes(self._insert, self._tables.head)
        self._make = make
        self._replicas = 0
        self._durability: Durability = "process"
        self._survives = "what its server's settings say"

    @property
    def durability(self) -> Durability:
        """See the port. As the server's settings were at `open`; "process" before, and when the server does not tell them."""
        return self._durability

    @property
    def survives(self) -> str:
        """See the port."""
        return self._survives

    async def open(self) -> None:
        """See the port. SM-4005 when the server cannot be reached or refuses us, SM-4006 for another format, SM-4030 when the server would
        throw frames away to make room."""
        await self._connections.open()
        try:
            await self._learn()
            await self._tables.identify(self._make)
        except BaseException:
            await self._connections.close()
            raise

    async def close(self) -> None:
        """See the port."""
        await self._lanes.drain()
        self._lanes.forget()
        await self._connections.close()

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        head = await self._tables.acquire(partition, owner)
        self._lanes.remember(partition, head)
        return Ownership(head.epoch, head.sequence + 1, self._tables.journal_id)

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port."""
        await self._lanes.append(partition, epoch, expected, payload)

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """See the port. Reads up to the last frame that is there when the last batch is fetched."""
        walk: ChainWalk | None = None
        limit = FIRST_BATCH
        while True:
            at = walk.sequence if walk else after
            batch = await self._tables.batch(partition, at, limit)
            check_start(self._where, partition, batch.head, at)
            walk = walk or ChainWalk(partition, after, batch.link[1], batch.link[0])
            size = 1
            for stored in batch.frames:
                yield checked(self._where, walk, stored)
                size += len(stored.payload)
            if walk.sequence == batch.head.sequence:
                return
            if not batch.frames:
                raise corrupt(self._where, partition, walk.sequence + 1, "the frame is missing")
            limit = max(1, min(LARGEST_BATCH, BATCH_BYTES * len(batch.frames) // size))

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        await self._tables.save_snapshot(partition, epoch, snapshot)

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """See the port."""
        found: list[Snapshot] = []
        for stored, trouble in await self._tables.snapshots(partition):
            if trouble:
                log.error("partition %d: the snapshot after frame %d is left out: %s", partition, stored.sequence, trouble)
            else:
                found.append(Snapshot(stored.sequence, stored.payload))
        return found

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        await self._tables.trim(partition, through)

    async def partitions(self) -> Sequence[Partition]:
        """See the port."""
        return await self._tables.partitions()

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        head = await self._tables.head(partition)
        return head.trimmed if head else 0

    async def torn(self, partition: Partition) -> bool:
        """Never: a frame is there whole, or not at all."""
        return False

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        return [(stored.sequence, trouble) for stored, trouble in await self._tables.snapshots(partition) if trouble]

    async def stored(self, partition: Partition) -> Stored:
        """See `Repairable`."""
        return await self._tables.stored(partition)

    async def stored_frames(self, partition: Partition) -> AsyncIterator[StoredFrame]:
        """See `Repairable`."""
        after = 0
        while frames := (await self._tables.batch(partition, after, FIRST_BATCH, checks=False)).frames:
            for frame in frames:
                yield frame
            after = frames[-1].sequence

    async def pieces(self, partition: Partition) -> AsyncIterator[Piece]:
        """See `Repairable`."""
        for piece in standing_pieces(await self.stored(partition)):
            yield piece
        async for frame in self.stored_frames(partition):
            yield frame_piece(frame)

    async def keep(self, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """See `Repairable`."""
        await self._tables.keep(partition, seen, kept)

    async def _learn(self) -> None:
        """What the server's settings promise."""
        for memory in await self._connections.info("memory"):
            if int(memory.get("maxmemory", 0)) and str(memory.get("maxmemory_policy", "")).startswith("allkeys"):
                message = (
                    f"the Redis server of the journal in {self._where} throws keys away when it is full ({memory['maxmemory_policy']})"
                )
                raise JournalError(message, code="SM-4030", hint="set maxmemory-policy to noeviction, or name another server")
        replication = await self._connections.info("replication")
        replicas = sum(int(said.get("connected_slaves", 0)) for said in replication)
        settings = await self._connections.settings("appendonly", "appendfsync")
        said = (settings, replicas, self._connections.is_cluster)
        self._durability, self._survives = durability_of(*said), survives_with(*said)
        self._replicas = 1 if self._durability == "replicated" else 0

    async def _insert(self, partition: Partition, frame: StoredFrame, previous: bytes) -> bool:
        keys = self._tables.keys(partition)[:2]
        values = (frame.epoch, frame.sequence - 1, previous, frame.sequence, frame.chain, packed(frame))
        done, confirmed = await self._connections.run_on_replicas(APPEND, keys, values, self._replicas)
        if done and confirmed < self._replicas:
            message = f"the journal in {self._where}: no replica confirmed frame {frame.sequence} of partition {partition} in time"
            raise JournalUnavailable(message, hint="check the server's replicas; no restart is needed")
        return bool(done)

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the journal in {self._where}")
        return _ERRORS.get(classify(error), JournalError)(message, hint=hint)
