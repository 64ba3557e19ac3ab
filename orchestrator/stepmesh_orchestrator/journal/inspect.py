"""Looking at a journal without changing it: whether every frame and snapshot verifies, and what the frames hold.

Works on any backend that tells what was trimmed and which snapshots are damaged. Must not know what frames hold: decoding is
passed in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Journal, JournalCorrupt

Content = TypeVar("Content")


class Inspectable(Journal, Protocol):
    """A journal with what verifying needs beside the port."""

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        ...

    async def torn(self, partition: Partition) -> bool:
        """Whether a frame at the end was not written to its end: nobody was told that it is there, the next owner cuts it off."""
        ...

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        ...


class Report(NamedTuple):
    """What verifying one partition found. `frames` were good, the first bad one is `first_bad` (None = all are good), for `reason`.
    `snapshots` are the good ones' sequences, newest first; `damaged_snapshots` the others, with what is wrong. `torn`: see the journal.
    """

    partition: Partition
    trimmed: int
    frames: int
    first_bad: int | None
    reason: str
    snapshots: Sequence[int]
    damaged_snapshots: Sequence[tuple[int, str]]
    torn: bool = False

    @property
    def good(self) -> bool:
        """Whether nothing at all is wrong."""
        return self.first_bad is None and not self.damaged_snapshots


class DumpedFrame(NamedTuple, Generic[Content]):
    """One frame, decoded; `size` is its payload's, in bytes."""

    sequence: int
    epoch: int
    size: int
    content: Content


async def verify(journal: Inspectable, partition: Partition) -> Report:
    """Check every frame's CRC, link and place, and every snapshot. Raises `JournalError` only when nothing can be read at all."""
    try:
        trimmed = await journal.trimmed(partition)
        torn = await journal.torn(partition)
    except JournalCorrupt as error:  # nothing says any more where the partition stands
        return Report(partition, 0, 0, 1, error.message, [], [])
    damaged = await journal.damaged_snapshots(partition)
    good = [snapshot.sequence for snapshot in await journal.snapshots(partition)]
    frames, first_bad, reason = 0, None, ""
    try:
        async for _ in journal.read(partition, trimmed):
            frames += 1
    except JournalCorrupt as error:
        first_bad, reason = trimmed + frames + 1, error.message
    return Report(partition, trimmed, frames, first_bad, reason, good, damaged, torn)


async def dump(
    journal: Inspectable, partition: Partition, decode: Callable[[bytes], Content], after: int | None = None
) -> AsyncIterator[DumpedFrame[Content]]:
    """The frames above `after` (from the oldest on, when None), each with what `decode` makes of its payload. Raises as `read` does."""
    start = await journal.trimmed(partition) if after is None else after
    async for frame in journal.read(partition, start):
        yield DumpedFrame(frame.sequence, frame.epoch, len(frame.payload), decode(frame.payload))
