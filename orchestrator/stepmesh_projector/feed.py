"""One partition's way from records to the read model: read, fold, hand on, and now and then a checkpoint.

Invariant: a checkpoint is kept only when the rows and windows of all frames up to it are, so whoever goes on from it loses nothing, and
what was projected after it is projected again with the same outcome. Must not know where records come from, nor what a database is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.store.sqlite import StoreUnavailable
from stepmesh_projector.fold import Fold
from stepmesh_projector.ports import Checkpoint, FrameReader, History, Keeper, Readers
from stepmesh_projector.windows import Place, Window, Windows

log = logging.getLogger("stepmesh.projector")
MAX_WAITING = 20_000
"""Rows that may wait for the store before no more frames are read."""


class ProjectorError(StepmeshError):
    """The journal's topic cannot be followed."""

    default_code = "SM-4210"


class Cut(NamedTuple):
    """A checkpoint to be, and the windows that changed since the last one."""

    checkpoint: Checkpoint
    windows: Mapping[Place, bytes]


class Feed:
    """`position`: of the last record that was read. `frames` and `rows` were taken since the start."""

    def __init__(self, partition: Partition, fold: Fold, reader: FrameReader, projector: Projector, position: int = -1) -> None:
        self.partition = partition
        self.projector = projector
        self.position = position
        self.frames = self.rows = 0
        self._fold = fold
        self._reader = reader
        self._begun = self._kept = fold.sequence
        self._whole = True  # reader and fold stand after the same record

    @property
    def sequence(self) -> int:
        """Of the last frame."""
        return self._fold.sequence

    @property
    def at_ms(self) -> int:
        """When the last frame was written, by its writer's clock; 0 before the first."""
        return self._fold.at_ms

    def windows(self, start_ms: int) -> list[tuple[Place, Window]]:
        """Those that began then, while they are not much older than the last frame."""
        return self._fold.windows.ended(start_ms)

    async def take(self, position: int, data: bytes) -> None:
        """The next record; one that was read before changes nothing. Raises `ProjectorError`, `StoreError`."""
        if position <= self.position:
            return
        self._whole = False
        try:
            await self._take(position, data)
        except ValueError as problem:
            raise _unreadable(self.partition, position, problem) from problem
        self.position, self._whole = position, True
        while self.projector.waiting > MAX_WAITING:
            await self.projector.reached(self.sequence)

    async def _take(self, position: int, data: bytes) -> None:
        frame = self._reader.take(position, data)
        if frame is None or frame.sequence <= self._begun:
            return
        if frame.sequence != self.sequence + 1:
            raise _missing(self.partition, self.sequence + 1, frame.sequence)
        rows = await self._fold.take(frame.sequence, frame.payload)
        self.projector.pass_on(frame.sequence, rows)
        self.frames += 1
        self.rows += len(rows)

    def cut(self) -> Cut | None:
        """None when nothing happened since the last one, or within a frame."""
        anchor = self._reader.anchor() if self._whole else None
        if anchor is None or self.sequence == self._kept:
            return None
        self._kept = self.sequence
        windows = self._fold.windows.changed(self.at_ms)
        return Cut(Checkpoint(self.sequence, self.position, anchor, self._fold.image()), windows)

    async def keep(self, cut: Cut, keeper: Keeper) -> bool:
        """See `Keeper.save`. Waits until the rows are stored, but not for a store that is away: then it raises a retryable `StoreError`."""
        await self.projector.reached(cut.checkpoint.sequence)
        if self.projector.sequence < cut.checkpoint.sequence:
            message = f"rows of partition {self.partition} are stored up to frame {self.projector.sequence}, not {cut.checkpoint.sequence}"
            raise StoreUnavailable(message, hint="is PostgreSQL up?")
        return await keeper.save(self.partition, cut.checkpoint, cut.windows)

    def release(self) -> None:
        """Let go of the state."""
        self._fold.release()


class Feeds:
    """Begins feeds. `size_ms`: of windows."""

    def __init__(self, flows: FlowRegistry, router: Router, readers: Readers, keeper: Keeper, history: History, size_ms: int) -> None:
        self._flows = flows
        self._router = router
        self._readers = readers
        self._keeper = keeper
        self._history = history
        self._size_ms = size_ms

    async def begin(self, partition: Partition, projector: Projector, kept: Callable[[Place], bytes | None]) -> Feed:
        """After the last checkpoint; before the first frame; or, when that is gone, after a snapshot whose rows are stored. `kept`: see
        `Windows`. Raises `ProjectorError`, `StoreError`, `JournalError`."""
        windows = Windows(self._size_ms, kept)
        found = await self._keeper.load(partition)
        trimmed = await self._history.trimmed(partition)
        if found is not None and found.sequence >= trimmed:
            await projector.position()
            return await self._restored(partition, projector, windows, found)
        if not trimmed:
            return Feed(partition, Fold.begin(partition, self._flows, self._router, windows), self._readers(), projector)
        return Feed(partition, await self._resumed(partition, await projector.position(), windows), self._readers(), projector)

    async def _restored(self, partition: Partition, projector: Projector, windows: Windows, found: Checkpoint) -> Feed:
        try:
            fold = await Fold.restore(found.image, self._flows, self._router, windows)
            return Feed(partition, fold, self._readers(found.anchor), projector, found.position)
        except (ValueError, LookupError) as problem:
            raise _useless(partition, found, problem) from problem

    async def _resumed(self, partition: Partition, stored: int, windows: Windows) -> Fold:
        """From the oldest snapshot that can be used, so that the windows begin as early as they can."""
        for snapshot in reversed(await self._history.snapshots(partition)):
            if snapshot.sequence <= stored:
                try:
                    fold = await Fold.resume(snapshot.payload, self._flows, self._router, windows)
                except (ValueError, LookupError) as problem:
                    log.warning("snapshot %d of partition %d is of no use: %s", snapshot.sequence, partition, problem)
                    continue
                log.warning("partition %d is counted from frame %d on: earlier ones are gone", partition, fold.sequence + 1)
                return fold
        raise _too_late(partition, stored)


def _missing(partition: Partition, wanted: int, found: int) -> ProjectorError:
    return ProjectorError(
        f"the journal's topic goes on with frame {found} of partition {partition}, where frame {wanted} should follow",
        hint="frames went from the topic just now: start it again; if it says so again, somebody else deletes the topic's records",
    )


def _too_late(partition: Partition, stored: int) -> ProjectorError:
    return ProjectorError(
        f"rows of partition {partition} are stored up to frame {stored}, after which frames are gone; no snapshot that is kept is as old",
        hint="run the orchestrators with --projection inline until they have recovered and stored what follows; then start it again",
    )


def _unreadable(partition: Partition, position: int, problem: ValueError) -> ProjectorError:
    return ProjectorError(
        f"the record at offset {position} of partition {partition} of the journal's topic cannot be read: {problem}",
        code="SM-4211",
        hint="run the release that wrote it, or a newer one; find out who else writes to the topic",
    )


def _useless(partition: Partition, found: Checkpoint, problem: Exception) -> ProjectorError:
    return ProjectorError(
        f"the checkpoint of partition {partition} after frame {found.sequence} cannot be used: {problem}",
        code="SM-4212",
        hint="run the release that wrote it, or begin again with stepmesh projector --rebuild",
    )
