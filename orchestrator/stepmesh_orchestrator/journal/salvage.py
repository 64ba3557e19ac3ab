"""What a repair keeps of a partition: of all that is stored, the one good stretch of frames from which a recovery gets furthest.

That is the one from the beginning, or, when a good snapshot lies behind the damage and the frames from there reach further, that one.
Pure; must not know any storage: frames come in as they are stored, unchecked and in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame, StoredSnapshot, snapshot_defect
from stepmesh_orchestrator.journal.rules import Head


class Stored(NamedTuple):
    """A partition as it is stored, unchecked. `owner`: what the owner's record says, None when there is none; `first`: the link before the
    first frame."""

    owner: Head | None
    first: bytes
    snapshots: Sequence[StoredSnapshot]

    @property
    def head(self) -> Head:
        """Where the partition stands; at its beginning when nobody says."""
        return self.owner or Head(0, 0, self.first, 0, self.first)


class Piece(NamedTuple):
    """One thing that is stored, for a copy of all of them: a frame, a snapshot or an owner, or a record of a log with its position."""

    kind: str
    number: int
    fields: Mapping[str, object]


class Cut(NamedTuple):
    """What a repair did to one partition: it had the frames up to `last_before` and has those from `first` to `last` now (none when
    `last` < `first`); `reason` says why, `snapshots` are the sequences of the snapshots that stayed, newest first.
    """

    partition: Partition
    last_before: int
    first: int
    last: int
    snapshots: list[int]
    reason: str


class Stretch(NamedTuple):
    """Frames above `start` that verify, up to where `walk` stopped, and why it did (empty at the last frame)."""

    start: int
    start_chain: bytes
    walk: ChainWalk
    reason: str


class Kept(NamedTuple):
    """What of a partition stays. `cut`: None when nothing is wrong."""

    head: Head
    snapshots: list[StoredSnapshot]
    cut: Cut | None


class Search:
    """Goes once over a partition's frames; `head` is what the owner's record says."""

    def __init__(self, partition: Partition, head: Head, snapshots: Iterable[StoredSnapshot]) -> None:
        self._partition = partition
        self._head = head
        self._good, self._reasons = sound(partition, snapshots)
        self._starts = sorted((snapshot.sequence, snapshot.chain) for snapshot in self._good)
        self._links = {snapshot.sequence: set[bytes]() for snapshot in self._good}
        self._done: list[Stretch] = []
        self._start = (head.trimmed, head.trimmed_chain)
        self._walk: ChainWalk | None = ChainWalk(partition, *self._start)

    def take(self, frame: StoredFrame) -> None:
        """Go on to the next stored frame."""
        if frame.sequence <= self._head.trimmed:
            return
        while self._walk is not None or self._begin(frame.sequence):
            assert self._walk is not None, "it has just begun"
            reason = self._walk.defect(frame)
            if not reason:
                if frame.sequence in self._links:
                    self._links[frame.sequence].add(frame.chain)
                return
            self._end(reason)

    def kept(self) -> Kept:
        """After the last frame."""
        if self._walk is not None:
            self._end("")
        while self._begin(None):
            self._end("")
        best = max(self._done, key=lambda stretch: stretch.walk.sequence)
        return kept(self._partition, self._head, self._of_this_history(), best, self._reasons)

    def _of_this_history(self) -> list[StoredSnapshot]:
        """Those that fit the frames; a frame that is not there contradicts none."""
        foreign = {sequence for sequence, links in self._links.items() if links}
        foreign -= {snapshot.sequence for snapshot in self._good if snapshot.chain in self._links[snapshot.sequence]}
        self._reasons += [f"snapshot {sequence}: it belongs to another history (hash chain)" for sequence in sorted(foreign)]
        return [snapshot for snapshot in self._good if snapshot.sequence not in foreign]

    def _begin(self, before: int | None) -> bool:
        """At the next good snapshot that lies behind all that was walked, and before a frame (None: wherever)."""
        reached = max(stretch.walk.sequence for stretch in self._done)
        self._starts = [start for start in self._starts if start[0] > reached]
        if not self._starts or (before is not None and self._starts[0][0] >= before):
            return False
        self._start = self._starts.pop(0)
        self._walk = ChainWalk(self._partition, *self._start)
        return True

    def _end(self, reason: str) -> None:
        assert self._walk is not None, "a stretch ends that began"
        self._done.append(Stretch(*self._start, self._walk, reason))
        self._walk = None


def standing_pieces(stored: Stored) -> Iterator[Piece]:
    """What the owner's record says, if there is one, and the snapshots."""
    if stored.owner is not None:
        yield Piece("owner", stored.owner.sequence, stored.owner._asdict())
    for snapshot in stored.snapshots:
        yield Piece("snapshot", snapshot.sequence, snapshot._asdict())


def frame_piece(frame: StoredFrame) -> Piece:
    """A frame as it is stored."""
    return Piece("frame", frame.sequence, frame._asdict())


def sound(partition: Partition, snapshots: Iterable[StoredSnapshot]) -> tuple[list[StoredSnapshot], list[str]]:
    """Those whose seal holds, and what is wrong with the others."""
    good: list[StoredSnapshot] = []
    reasons: list[str] = []
    for snapshot in snapshots:
        defect = snapshot_defect(partition, snapshot)
        if defect:
            reasons.append(f"snapshot {snapshot.sequence}: {defect}")
        else:
            good.append(snapshot)
    return good, reasons


def kept(partition: Partition, head: Head, good: list[StoredSnapshot], best: Stretch, reasons: list[str]) -> Kept:
    """What stays when the stretch `best` does. `reasons` are those for cutting that are known already."""
    last = best.walk.sequence
    snapshots = [snapshot for snapshot in good if best.start <= snapshot.sequence <= last]
    if best.reason:
        reasons.append(f"frame {last + 1}: {best.reason}")
    if (best.start, last) != (head.trimmed, head.sequence) or best.walk.chain != head.chain:
        reasons.append(f"frames {best.start + 1} to {last} verify, the owner's record says {head.trimmed + 1} to {head.sequence}")
    stays = Head(max(head.epoch, best.walk.epoch), last, best.walk.chain, best.start, best.start_chain)
    cut = Cut(partition, head.sequence, best.start + 1, last, [snapshot.sequence for snapshot in snapshots], "; ".join(reasons))
    return Kept(stays, snapshots, cut if reasons else None)
