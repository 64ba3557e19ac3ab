"""The Journal port over a broker's log: appends, owners and trims are records that follow each other in one order.

Whoever acquires writes an owner record; whoever appends makes sure that no newer owner's lies between its last record and this one: the
log refused it then, or nobody counts it. So two owners never both believe a frame theirs. Must not know which broker it is, nor
what frames hold.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NoReturn

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import log_repair
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame, StoredSnapshot, genesis, seal_snapshot
from stepmesh_orchestrator.journal.log_owner import LogOwner
from stepmesh_orchestrator.journal.log_reading import Cursor, LocatedFrame, LogReader, Standing, UnreadableRecord
from stepmesh_orchestrator.journal.log_records import Record, claim_record, encode, owner_record, trim_record
from stepmesh_orchestrator.journal.log_snapshots import LogSnapshots
from stepmesh_orchestrator.journal.record_log import Overtaken, RecordLog
from stepmesh_orchestrator.journal.rules import (
    Head,
    JournalUnavailable,
    check_last,
    check_owner,
    check_snapshot,
    check_start,
    check_trim,
    check_untouched,
    checked,
    corrupt,
    snapshot_trouble,
)
from stepmesh_orchestrator.journal.salvage import Kept, Piece, Stored
from stepmesh_orchestrator.ports import Frame, JournalCorrupt, JournalError, Ownership, Snapshot

log = logging.getLogger(__name__)

_ATTEMPTS = 20
"""To become the owner, or to trim, while others write."""
_PAUSE_S = 0.002


class LogJournal:
    """What the backends share. `frames` and `snapshots` are two logs over one connection; `where` names the journal, for messages. They
    call `identify` when it is open and `drain` before it is closed.
    """

    def __init__(self, frames: RecordLog, snapshots: RecordLog, where: str) -> None:
        self.where = where
        self._journal_id = ""
        self._log = frames
        self._shelf = LogSnapshots(snapshots)
        self._reader = LogReader(frames, where)
        self._owners: dict[Partition, LogOwner] = {}
        self._closed = True
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._locks: dict[Partition, asyncio.Lock] = {}

    def identify(self, journal_id: str) -> None:
        """Which journal it is; appends may begin."""
        self._journal_id = journal_id
        self._closed = False

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        async with self._alone(partition):
            self._owners.pop(partition, None)
            verified = None
            for attempt in range(_ATTEMPTS):
                standing = await self._standing(partition)
                if standing.head.sequence != verified:
                    if not await self._is_sound(partition, standing):
                        continue
                    verified = standing.head.sequence
                head = standing.head._replace(epoch=standing.head.epoch + 1)
                writer = secrets.randbits(63)
                try:
                    position = await self._log.append(partition, encode(owner_record(head, writer, owner)), standing.position)
                except Overtaken as overtaken:
                    await self._insist(partition, claim_record(head, writer), attempt, overtaken)
                    continue
                if standing.torn:
                    log.warning("partition %d: frame %d was not written to its end and is cut off", partition, head.sequence + 1)
                self._owners[partition] = LogOwner(self._log, partition, head, writer, position)
                return Ownership(head.epoch, head.sequence + 1, self._journal_id)
        raise self._contended(partition)

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port."""
        async with self._alone(partition):
            await (await self._owner(partition, epoch)).append(epoch, expected, payload)

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """See the port. Reads up to the last frame that is there when it gets there."""
        walk: ChainWalk | None = None
        cursor: Cursor | None = None
        while True:
            standing = await self._standing(partition)
            reached = walk.sequence if walk else after
            check_start(self.where, partition, standing.head, reached)
            if reached == standing.head.sequence:
                return
            cursor = cursor or await self._reader.cursor(partition, after, standing)
            reason = "the frame is missing"
            try:
                async with aclosing(cursor.frames(standing.position)) as frames:
                    async for located in frames:
                        if walk is None and located.frame.sequence > after:
                            walk = ChainWalk(partition, after, self._known_link(partition, standing, after) or located.previous)
                        if walk is not None:
                            yield await self._checked(walk, located)
            except UnreadableRecord:
                reason = "its fields have other types than were written"
            reached = walk.sequence if walk else after
            if reached < standing.head.sequence:
                await self._refuse(partition, reached, reason)

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        standing = await self._reader.standing(partition)
        check_snapshot(partition, standing.head if standing else None, epoch, snapshot.sequence)
        chain = await self._link(partition, await self._standing(partition), snapshot.sequence)
        if not chain:
            raise corrupt(self.where, partition, snapshot.sequence, "the frame is missing")
        await self._shelf.save(partition, seal_snapshot(partition, snapshot.sequence, chain, snapshot.payload))

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """See the port."""
        found: list[Snapshot] = []
        for stored, trouble in await self._examined(partition):
            if trouble:
                log.error("partition %d: the snapshot after frame %d is left out: %s", partition, stored.sequence, trouble)
            else:
                found.append(Snapshot(stored.sequence, stored.payload))
        return found

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        return [(stored.sequence, trouble) for stored, trouble in await self._examined(partition) if trouble]

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        async with self._alone(partition):
            for _ in range(_ATTEMPTS):
                standing = await self._standing(partition)
                if through <= standing.head.trimmed:
                    return
                check_trim(partition, min(await self._shelf.kept(partition), default=None), through)
                head = standing.head._replace(trimmed=through, trimmed_chain=await self._link(partition, standing, through))
                first_kept = await self._first_kept(partition, standing, through)
                if await self._mark(partition, standing, trim_record(head, standing.writer)):
                    await self._log.drop_before(partition, first_kept)
                    return
        raise self._contended(partition)

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        return (await self._standing(partition)).head.trimmed

    async def torn(self, partition: Partition) -> bool:
        """See `Inspectable`."""
        return (await self._standing(partition)).torn

    async def stored(self, partition: Partition) -> Stored:
        """See `Repairable`."""
        standing = await self._standing(partition)
        return Stored(standing.head, genesis(self._journal_id, partition), await self._shelf.load(partition))

    async def stored_frames(self, partition: Partition) -> AsyncIterator[StoredFrame]:
        """See `Repairable`."""
        standing = await self._standing(partition)
        async with aclosing(self._reader.whole(partition).frames(standing.position)) as frames:
            async for located in frames:
                yield located.frame

    async def pieces(self, partition: Partition) -> AsyncIterator[Piece]:
        """See `Repairable`."""
        for kind, log_of in (("journal", self._log), ("snapshots", self._shelf.log)):
            async for piece in log_repair.pieces(kind, log_of, partition):
                yield piece

    async def keep(self, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """See `Repairable`."""
        async with self._alone(partition):
            self._owners.pop(partition, None)
            standing = await self._standing(partition)
            check_untouched(partition, seen, standing.head)
            await log_repair.keep(self._log, self._reader, partition, standing, kept)
            if await self._shelf.load(partition) != kept.snapshots:
                await self._shelf.replace(partition, kept.snapshots)

    async def partitions(self) -> Sequence[Partition]:
        """See the port."""
        return await self._log.partitions()

    async def drain(self) -> None:
        """Take no more appends; returns when those that wait are done."""
        self._closed = True
        await self._idle.wait()

    @asynccontextmanager
    async def _alone(self, partition: Partition) -> AsyncGenerator[None, None]:
        if self._closed:
            raise JournalUnavailable(f"the journal in {self.where} is not open", hint="open it first")
        self._busy += 1
        self._idle.clear()
        try:
            async with self._locks.setdefault(partition, asyncio.Lock()):
                yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def _owner(self, partition: Partition, epoch: int) -> LogOwner:
        """This process's owner of the partition, or the one with this epoch. Raises `StaleOwner`."""
        owner = self._owners.get(partition)
        if owner is None or owner.overtaken:
            standing = await self._reader.standing(partition)
            check_owner(partition, standing.head if standing else None, epoch)
            standing = await self._standing(partition)
            owner = self._owners[partition] = LogOwner(self._log, partition, standing.head, standing.writer, standing.position)
        return owner

    async def _mark(self, partition: Partition, standing: Standing, record: Record) -> bool:
        """Add a trim, through the owner of this process where it is one; False when something else came first."""
        owner = self._owners.get(partition)
        try:
            if owner is None or owner.overtaken:
                await self._log.append(partition, encode(record), standing.position)
            else:
                await owner.place(record)
        except Overtaken as overtaken:
            return overtaken.position is not None
        return True

    async def _insist(self, partition: Partition, claim: Record, attempt: int, overtaken: Overtaken) -> None:
        """Others write all the time: make the present owner stop. An owner record that the log took although it was overtaken does so."""
        if overtaken.position is None and attempt % 2:
            await self._log.append(partition, encode(claim), None)
        await asyncio.sleep(random.uniform(0, attempt * _PAUSE_S))

    async def _is_sound(self, partition: Partition, standing: Standing) -> bool:
        """False when the look at the last frame came too late: others wrote or trimmed meanwhile. Raises `JournalCorrupt`."""
        try:
            await self._verify_last(partition, standing)
        except JournalCorrupt:
            if await self._standing(partition) == standing:
                raise
            return False
        return True

    async def _verify_last(self, partition: Partition, standing: Standing) -> None:
        """A new owner's look at the last frame. Raises `JournalCorrupt`."""
        head = standing.head
        if head.sequence > head.trimmed:
            last = await self._reader.first(partition, head.sequence - 1, standing)
            check_last(self.where, partition, head, (0, last.previous if last else b""), last.frame if last else None)

    def _contended(self, partition: Partition) -> JournalError:
        message = f"others write to partition {partition} all the time"
        return JournalError(message, code="SM-4021", hint="do two deployments share one namespace?")

    async def _standing(self, partition: Partition) -> Standing:
        first = genesis(self._journal_id, partition)
        return await self._reader.standing(partition) or Standing(Head(0, 0, first, 0, first), 0, 0, 0, False)

    def _known_link(self, partition: Partition, standing: Standing, sequence: int) -> bytes:
        """The link of a frame that need not be looked up; else empty."""
        head = standing.head
        known = {0: genesis(self._journal_id, partition), head.sequence: head.chain, head.trimmed: head.trimmed_chain}
        return known.get(sequence, b"")

    async def _link(self, partition: Partition, standing: Standing, sequence: int) -> bytes:
        """The link of a frame as the log has it; empty when it is missing."""
        known = self._known_link(partition, standing, sequence)
        if known or not standing.head.trimmed < sequence < standing.head.sequence:
            return known
        found = await self._reader.first(partition, sequence - 1, standing)
        return found.frame.chain if found and found.frame.sequence == sequence else b""

    async def _first_kept(self, partition: Partition, standing: Standing, through: int) -> int:
        """Where the log may begin when the frames up to `through` are forgotten: at a record that counts."""
        if through == standing.head.sequence:
            return standing.counting
        following = await self._reader.first(partition, through, standing)
        if following is None or following.frame.sequence != through + 1:
            raise corrupt(self.where, partition, through + 1, "the frame is missing")
        return following.position

    async def _examined(self, partition: Partition) -> list[tuple[StoredSnapshot, str]]:
        """Every kept snapshot with what is wrong with it, newest first."""
        standing = await self._standing(partition)
        return [
            (stored, snapshot_trouble(partition, standing.head, stored, await self._link(partition, standing, stored.sequence)))
            for stored in await self._shelf.load(partition)
        ]

    async def _checked(self, walk: ChainWalk, located: LocatedFrame) -> Frame:
        try:
            return checked(self.where, walk, located.frame)
        except JournalCorrupt:
            check_start(self.where, walk.partition, (await self._standing(walk.partition)).head, walk.sequence)  # trimmed meanwhile
            raise

    async def _refuse(self, partition: Partition, reached: int, reason: str) -> NoReturn:
        check_start(self.where, partition, (await self._standing(partition)).head, reached)
        raise corrupt(self.where, partition, reached + 1, reason)
