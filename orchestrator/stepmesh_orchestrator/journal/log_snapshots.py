"""Snapshots in a broker's log: each in chunks, then a record that completes it; the newest three are kept.

A snapshot is complete or not there: one whose last record is missing was never saved. Saved again, the later one counts. What is on the
shelf is found by one reading, and known from then on while nobody else writes there. Must not know frames nor brokers.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import StoredSnapshot
from stepmesh_orchestrator.journal.log_records import ROOM_BYTES
from stepmesh_orchestrator.journal.record_log import Entry, RecordLog
from stepmesh_orchestrator.journal.rules import KEPT_SNAPSHOTS


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Piece `part` of the snapshot that was saved as `save`; the one after the last piece carries the seal."""

    save: int
    part: int
    sequence: int
    crc: Any
    chain: Any
    payload: Any
    last: bool


class Shelved(NamedTuple):
    """A complete snapshot and where it lies."""

    sequence: int
    first: int
    last: int


class _Shelf(NamedTuple):
    end: int
    kept: list[Shelved]


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Chunk).decode


class LogSnapshots:
    """Those of all partitions, in one log."""

    def __init__(self, log: RecordLog) -> None:
        self.log = log
        self._shelves: dict[Partition, _Shelf] = {}

    async def kept(self, partition: Partition) -> list[int]:
        """Their sequences, newest first."""
        return [shelved.sequence for shelved in (await self._shelf(partition)).kept]

    async def load(self, partition: Partition) -> list[StoredSnapshot]:
        """All that are kept, newest first, unchecked."""
        return [await self._load(partition, shelved) for shelved in (await self._shelf(partition)).kept]

    async def save(self, partition: Partition, snapshot: StoredSnapshot) -> None:
        """Put it beside the others; the oldest ones go."""
        shelf = await self._shelf(partition)
        limit = self.log.max_entry_bytes - ROOM_BYTES
        save, size = secrets.randbits(63), len(snapshot.payload)
        first = last = 0
        for part, start in enumerate(range(0, size, limit)):
            chunk = Chunk(save, part, snapshot.sequence, 0, b"", snapshot.payload[start : start + limit], False)
            last = await self.log.append(partition, encode(chunk), None)
            first = first or last
        seal = Chunk(save, -(-size // limit), snapshot.sequence, snapshot.crc, snapshot.chain, b"", True)
        last = await self.log.append(partition, encode(seal), None)
        kept = _newest([*shelf.kept, Shelved(snapshot.sequence, first or last, last)])
        self._shelves[partition] = _Shelf(last, kept)
        await self.log.drop_before(partition, min(shelved.first for shelved in kept))

    async def replace(self, partition: Partition, snapshots: Sequence[StoredSnapshot]) -> None:
        """Keep these and no others. They are written once more before the rest goes: broken off, none is lost."""
        end = (await self._shelf(partition)).end
        for snapshot in sorted(snapshots):
            await self.save(partition, snapshot)
        await self.log.drop_before(partition, end + 1)
        self._shelves.pop(partition, None)

    async def _shelf(self, partition: Partition) -> _Shelf:
        tail = await self.log.tail(partition, 1)
        end = tail.entries[-1].position if tail.entries else 0
        known = self._shelves.get(partition)
        if known is None or known.end != end:
            known = self._shelves[partition] = _Shelf(end, await self._look(partition, end))
        return known

    async def _look(self, partition: Partition, end: int) -> list[Shelved]:
        """What is complete up to position `end`."""
        open_saves: dict[int, tuple[int, int]] = {}
        found: list[Shelved] = []
        async for entry in self.log.scan(partition, 1, end):
            chunk = _decoded(entry)
            if chunk is None:
                continue
            first, parts = open_saves.get(chunk.save, (entry.position, 0))
            if chunk.part == parts:  # else it was sent twice
                open_saves[chunk.save] = (first, parts + 1)
            if chunk.last and chunk.part == parts:
                found.append(Shelved(chunk.sequence, first, entry.position))
        return _newest(found)

    async def _load(self, partition: Partition, shelved: Shelved) -> StoredSnapshot:
        pieces: dict[int, list[Any]] = {}
        async for entry in self.log.scan(partition, shelved.first, shelved.last):
            chunk = _decoded(entry)
            if chunk is not None and not chunk.last:
                found = pieces.setdefault(chunk.save, [])
                if chunk.part == len(found):
                    found.append(chunk.payload)
            elif chunk is not None and entry.position == shelved.last:
                return StoredSnapshot(chunk.sequence, chunk.crc, chunk.chain, _joined(pieces.get(chunk.save, [])))
        return StoredSnapshot(shelved.sequence, 0, b"", b"")  # it went meanwhile: its seal does not hold


def _decoded(entry: Entry) -> Chunk | None:
    try:
        return _decode(entry.data)
    except msgspec.DecodeError:
        return None


def _joined(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _newest(shelved: list[Shelved]) -> list[Shelved]:
    """The newest three, newest first; of those with one sequence the last saved."""
    latest = {one.sequence: one for one in sorted(shelved, key=lambda one: one.last)}
    return sorted(latest.values(), reverse=True)[:KEPT_SNAPSHOTS]
