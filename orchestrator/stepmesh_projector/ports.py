"""What a feed needs beside the store: to read records as frames, and to keep how far it is. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Frame, Snapshot
from stepmesh_projector.windows import Place


class Checkpoint(NamedTuple):
    """Where a feed was after the frame `sequence`: `position` is of the last record it read, `anchor` and `image` are its reader's and its
    fold's."""

    sequence: int
    position: int
    anchor: bytes
    image: bytes


class FrameReader(Protocol):
    """Reads one partition's records in order. Those of stale owners are no frames."""

    def take(self, position: int, data: bytes) -> Frame | None:
        """The frame that the next record completes. Raises `ValueError` for what is no record."""
        ...

    def anchor(self) -> bytes | None:
        """To go on after the last record; None within a frame."""
        ...


class Readers(Protocol):
    """Makes readers: before a partition's first record that is still there, or after the one at which `anchor` was made."""

    def __call__(self, anchor: bytes | None = None) -> FrameReader: ...


class History(Protocol):
    """What is left of a journal's past. Every call raises `JournalError`."""

    async def trimmed(self, partition: Partition) -> int:
        """The last frame that is forgotten; 0 when none is."""
        ...

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """As the Journal port has them, newest first: the frames after each are there."""
        ...


class Keeper(Protocol):
    """Keeps checkpoints and windows. Every call raises `StoreError`."""

    async def load(self, partition: Partition) -> Checkpoint | None:
        """The newest one; None at first."""
        ...

    async def save(self, partition: Partition, checkpoint: Checkpoint, windows: Mapping[Place, bytes]) -> bool:
        """Both or none. False, and nothing is kept, when a later checkpoint is there: another process has the partition now."""
        ...

    async def forget(self, before_ms: int) -> None:
        """Windows that began before."""
        ...
