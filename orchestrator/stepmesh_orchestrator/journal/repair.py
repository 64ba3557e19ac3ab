"""Repairing the journal on a server: of each damaged partition the stretch that `salvage` finds stays, after all that is stored was copied.

Whoever still owns the partition is fenced off: a repair raises the epoch, and refuses when something was written since it looked. The
invariant: whatever existed before exists after, in the journal or in the copy. A file is repaired by `sqlite_repair`, which gets around
pages that cannot be read. Must not know which server it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import StoredFrame
from stepmesh_orchestrator.journal.inspect import Inspectable
from stepmesh_orchestrator.journal.rules import Head
from stepmesh_orchestrator.journal.salvage import Cut, Kept, Piece, Search, Stored


class Repairable(Inspectable, Protocol):
    """A journal with what repairing needs beside: what is stored, as it is, and a way to keep a part of it."""

    async def stored(self, partition: Partition) -> Stored:
        """Owner and snapshots, unchecked. Raises `JournalCorrupt` when nothing says where the partition stands, and never will."""
        ...

    def stored_frames(self, partition: Partition) -> AsyncIterator[StoredFrame]:
        """All frames that can be read at all, in order, unchecked."""
        ...

    def pieces(self, partition: Partition) -> AsyncIterator[Piece]:
        """All that is stored, for a copy."""
        ...

    async def keep(self, partition: Partition, seen: Head | None, kept: Kept) -> None:
        """Forget all but `kept`, under a new epoch. Broken off, it can be done again. Raises SM-4220 when the owner's record is not the one
        that was `seen`, SM-4221 when this journal cannot forget that."""
        ...


class Finding(NamedTuple):
    """What a repair would do to a damaged partition."""

    seen: Head | None
    kept: Kept
    cut: Cut


async def examine(journal: Repairable, partition: Partition) -> Finding | None:
    """What is to be done; None when nothing is wrong. Changes nothing."""
    stored = await journal.stored(partition)
    search = Search(partition, stored.head, stored.snapshots)
    empty = True
    async for frame in journal.stored_frames(partition):
        search.take(frame)
        empty = False
    found = search.kept()
    if stored.owner is None and not empty:
        cut = found.cut or Cut(partition, 0, 1, found.head.sequence, [one.sequence for one in found.snapshots], "")
        found = found._replace(cut=cut._replace(reason="; ".join(filter(None, (cut.reason, "the partition's owner record is missing")))))
    return None if found.cut is None else Finding(stored.owner, found, found.cut)
