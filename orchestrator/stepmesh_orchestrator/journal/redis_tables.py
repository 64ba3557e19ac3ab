"""The Redis journal's keys, and what is done to them: scripts that check, and what their answers mean.

All keys of a partition have one hash tag, `{<namespace>:<partition>}`, so they lie together on a cluster. `owner` keeps where a partition
stands; since a frame and its owner's hash change in one script, a lost last frame shows. Must not know what frames hold.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.framing import FORMAT, StoredFrame, StoredSnapshot, genesis, seal_snapshot
from stepmesh_orchestrator.journal.redis_scripts import ACQUIRE, KEEP, LOOK, READ, SAVE, SNAPSHOTS, TRIM
from stepmesh_orchestrator.journal.rules import (
    KEPT_SNAPSHOTS,
    Head,
    JournalAbsent,
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
from stepmesh_orchestrator.redis import RedisConnections

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Batch(NamedTuple):
    """Frames of one read, unchecked. `link`: epoch and chain before the first."""

    frames: list[StoredFrame]
    link: tuple[int, bytes]
    head: Head


class Tables:
    """The keys of one journal; `where` names it in messages."""

    def __init__(self, connections: RedisConnections, namespace: Namespace, where: str) -> None:
        self.where = where
        self.journal_id = ""
        self._connections = connections
        self._namespace = namespace

    def keys(self, partition: Partition) -> tuple[str, str, str]:
        """Owner, frames, snapshots."""
        prefix = f"stepmesh:{{{self._namespace}:{partition}}}"
        return f"{prefix}:owner", f"{prefix}:frames", f"{prefix}:snapshots"

    async def identify(self, make: bool) -> None:
        """Learn the journal's id; give it one when it is new and to be made. Raises `JournalFormatError`, `JournalAbsent`."""
        key = f"stepmesh:{{{self._namespace}}}:journal"
        if not make and not await self._connections.command("EXISTS", key):
            raise JournalAbsent.of(self.where)
        await self._connections.command("HSETNX", key, "format", FORMAT)
        await self._connections.command("HSETNX", key, "journal_id", secrets.token_hex(16))
        found, journal_id = await self._connections.command("HMGET", key, "format", "journal_id")
        if found != str(FORMAT).encode():
            message = f"the journal in {self.where} has format {found.decode(errors='replace')}; this release reads format {FORMAT}"
            raise JournalFormatError(message, hint="run the release that wrote it, or name another namespace")
        self.journal_id = journal_id.decode()

    async def head(self, partition: Partition) -> Head | None:
        """None when nobody ever owned the partition. Raises `JournalCorrupt` when frames say otherwise."""
        head, frames = await self._connections.run(LOOK, self.keys(partition), ())
        return self._checked(partition, _head(head), frames)

    async def acquire(self, partition: Partition, owner: str) -> Head:
        """See the port; where the partition stands, with the new epoch."""
        await self._connections.command("SADD", self._partitions, partition)  # first: a partition that is owned is always listed
        values = (owner, genesis(self.journal_id, partition))
        raw, entries = await self._connections.run(ACQUIRE, self.keys(partition), values)
        head = self._checked(partition, _head(raw), len(entries)) or self.empty(partition)
        frames = {frame.sequence: frame for frame in map(_frame, entries) if frame.sequence > head.trimmed}
        newest = max(frames, default=0)
        if newest > head.sequence:
            raise corrupt(self.where, partition, newest, "it is above the last frame that the owner's record names")
        previous = frames.get(head.sequence - 1)
        link = (0, head.trimmed_chain) if head.sequence - 1 <= head.trimmed else (previous.epoch, previous.chain) if previous else (0, b"")
        check_last(self.where, partition, head, link, frames.get(head.sequence))
        return head

    async def batch(self, partition: Partition, after: int, limit: int, checks: bool = True) -> Batch:
        """The next frames above `after`, as they were at one moment. `checks`: there is an owner."""
        raw, before, entries = await self._connections.run(READ, self.keys(partition), (after, limit))
        frames = [_frame(entry) for entry in entries]
        head = self._checked(partition, _head(raw), len(frames) * checks) or self.empty(partition)
        return Batch(frames, _link(head, after, before), head)

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        saved = 0
        while not saved:  # somebody acquired or trimmed between looking and writing: look again
            raw, before, _ = await self._connections.run(READ, self.keys(partition), (snapshot.sequence, 1))
            head = check_snapshot(partition, _head(raw), epoch, snapshot.sequence)
            chain = _link(head, snapshot.sequence, before)[1]
            if not chain:
                raise corrupt(self.where, partition, snapshot.sequence, "the frame is missing")
            stored = seal_snapshot(partition, snapshot.sequence, chain, snapshot.payload)
            values = (epoch, head.trimmed, stored.sequence, _encode(stored[1:]), KEPT_SNAPSHOTS)
            saved = await self._connections.run(SAVE, self.keys(partition), values)

    async def snapshots(self, partition: Partition) -> list[tuple[StoredSnapshot, str]]:
        """All of them, newest first, each with what is wrong with it (empty when it is good)."""
        raw, kept, links = await self._connections.run(SNAPSHOTS, self.keys(partition), ())
        head = _head(raw) or self.empty(partition)
        found: list[tuple[StoredSnapshot, str]] = []
        for sequence, packed, entries in zip(map(int, kept[::2]), kept[1::2], links, strict=True):
            snapshot = StoredSnapshot(sequence, *_fields(packed, 3))
            found.append((snapshot, snapshot_trouble(partition, head, snapshot, _link(head, sequence, entries)[1])))
        return sorted(found, key=lambda pair: pair[0].sequence, reverse=True)

    async def stored(self, partition: Partition) -> Stored:
        """Owner and snapshots, unchecked."""
        raw, kept, _ = await self._connections.run(SNAPSHOTS, self.keys(partition), ())
        found = [StoredSnapshot(int(sequence), *_fields(packed, 3)) for sequence, packed in zip(kept[::2], kept[1::2], strict=True)]
        return Stored(_head(raw), genesis(self.journal_id, partition), sorted(found, reverse=True, key=lambda one: one.sequence))

    async def keep(self, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """Forget all but `kept`, in one script."""
        head = kept.head._replace(epoch=kept.head.epoch + 1)
        before = ("", "", "", "", "") if seen is None else seen
        values = (*before, *head, head.trimmed + 1, *(snapshot.sequence for snapshot in kept.snapshots))
        if not await self._connections.run(KEEP, self.keys(partition), values):
            check_untouched(partition, seen, _head((await self._connections.run(LOOK, self.keys(partition), ()))[0]))

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        trimmed = 0
        while not trimmed:  # another one trimmed meanwhile: look again
            raw, kept, _ = await self._connections.run(SNAPSHOTS, self.keys(partition), ())
            head = self._checked(partition, _head(raw), len(kept)) or self.empty(partition)
            if through <= head.trimmed:
                return
            check_trim(partition, min(map(int, kept[::2]), default=None), through)
            _, last, _ = await self._connections.run(READ, self.keys(partition), (through, 1))
            values = (head.trimmed, through, _link(head, through, last)[1], through + 1)
            trimmed = await self._connections.run(TRIM, self.keys(partition), values)

    async def partitions(self) -> list[Partition]:
        """Those that have frames or owners."""
        listed = sorted(int(member) for member in await self._connections.command("SMEMBERS", self._partitions))
        found: list[Partition] = []
        for partition in map(Partition, listed):
            head, frames = await self._connections.run(LOOK, self.keys(partition), ())
            if head[0] is not None or frames:
                found.append(partition)
        return found

    def empty(self, partition: Partition) -> Head:
        """Where a partition stands that nobody ever owned."""
        first = genesis(self.journal_id, partition)
        return Head(0, 0, first, 0, first)

    @property
    def _partitions(self) -> str:
        return f"stepmesh:{{{self._namespace}}}:partitions"

    def _checked(self, partition: Partition, head: Head | None, frames: int) -> Head | None:
        if head is None and frames:
            raise corrupt(self.where, partition, 1, "the partition's owner record is missing")
        return head


def packed(frame: StoredFrame) -> bytes:
    """A frame as its entry holds it; its sequence is the entry's id."""
    return _encode(frame[1:])


def _head(raw: list[bytes | None]) -> Head | None:
    epoch, sequence, chain, trimmed, trimmed_chain = raw
    if epoch is None:
        return None
    return Head(int(epoch), int(sequence or 0), chain or b"", int(trimmed or 0), trimmed_chain or b"")


def _frame(entry: Any) -> StoredFrame:
    name, fields = entry
    epoch, crc, chain, payload = _fields(fields[1], 4)
    return StoredFrame(int(name.partition(b"-")[0]), epoch, crc, chain, payload)


def _fields(packed: bytes, count: int) -> list[Any]:
    """What was packed; what cannot be read are fields of a wrong type, which the check of the seal names."""
    try:
        fields = _decode(packed)
    except (ValueError, msgspec.DecodeError):
        return [None] * count
    return fields if isinstance(fields, list) and len(fields) == count else [None] * count


def _link(head: Head, sequence: int, entries: list[Any]) -> tuple[int, bytes]:
    """Epoch and link of a frame; what stands for it when it is trimmed or missing lets the next check fail."""
    if sequence <= head.trimmed:
        return 0, head.trimmed_chain
    if not entries:
        return 0, b""
    frame = _frame(entries[0])
    return frame.epoch, frame.chain
