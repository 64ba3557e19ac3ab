"""The Journal port in memory: for tests, simulations and the benchmark's upper bound. Survives whoever holds it, not the process.

Several owners share one instance, as they would share a file; it keeps every rule of the durable backends. `logs` is open to
simulations, which damage what is stored there and look at what follows.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame, StoredSnapshot, genesis, seal, seal_snapshot
from stepmesh_orchestrator.journal.rules import (
    KEPT_SNAPSHOTS,
    Head,
    check_append,
    check_last,
    check_snapshot,
    check_start,
    check_trim,
    checked,
    corrupt,
    snapshot_trouble,
)
from stepmesh_orchestrator.ports import Frame, Ownership, Snapshot

log = logging.getLogger(__name__)

_WHERE = "memory"


@dataclass
class MemoryLog:
    """One partition as it is stored. `snapshots` are by sequence."""

    head: Head
    frames: list[StoredFrame] = field(default_factory=list[StoredFrame])
    snapshots: dict[int, StoredSnapshot] = field(default_factory=dict[int, StoredSnapshot])

    def at(self, sequence: int) -> StoredFrame | None:
        """The frame stored as `sequence`; None when it is trimmed or not there yet."""
        index = sequence - self.head.trimmed - 1
        return self.frames[index] if 0 <= index < len(self.frames) else None

    def link(self, sequence: int) -> tuple[int, bytes]:
        """Epoch and link of the frame `sequence`, or of the last trimmed one."""
        frame = self.at(sequence)
        return (frame.epoch, frame.chain) if frame else (0, self.head.trimmed_chain)


class MemoryJournal:
    """`before_append` and `after_append` are called with partition and sequence around the moment a frame becomes durable; what
    they raise reaches the appender: a crash, or a full disk, that the frame did not or did survive.
    """

    def __init__(
        self,
        before_append: Callable[[Partition, int], None] | None = None,
        after_append: Callable[[Partition, int], None] | None = None,
    ) -> None:
        self.logs: dict[Partition, MemoryLog] = {}
        self._journal_id = secrets.token_hex(16)
        self._before_append = before_append
        self._after_append = after_append

    @property
    def durability(self) -> Literal["process"]:
        """See the port."""
        return "process"

    @property
    def survives(self) -> str:
        """See the port."""
        return "nothing: every run is lost when the process that keeps it ends"

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port. What is stored stays, for the next `open`."""

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """See the port."""
        first = genesis(self._journal_id, partition)
        found = self.logs.setdefault(partition, MemoryLog(Head(0, 0, first, 0, first)))
        check_last(_WHERE, partition, found.head, found.link(found.head.sequence - 1), found.at(found.head.sequence))
        found.head = found.head._replace(epoch=found.head.epoch + 1)
        log.debug("partition %d: %s is the owner of epoch %d", partition, owner, found.head.epoch)
        return Ownership(found.head.epoch, found.head.sequence + 1, self._journal_id)

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the port."""
        found = self.logs.get(partition)
        head = check_append(partition, found.head if found else None, epoch, expected)
        if self._before_append:
            self._before_append(partition, expected)
        frame = seal(partition, expected, epoch, payload, head.chain)
        log_of = self.logs[partition]
        log_of.frames.append(frame)
        log_of.head = head._replace(sequence=expected, chain=frame.chain)
        if self._after_append:
            self._after_append(partition, expected)

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """See the port."""
        found = self._log(partition)
        check_start(_WHERE, partition, found.head, after)
        epoch, chain = found.link(after)
        walk = ChainWalk(partition, after, chain, epoch)
        while walk.sequence < found.head.sequence:
            stored = found.at(walk.sequence + 1)
            check_start(_WHERE, partition, found.head, walk.sequence)  # it may have been trimmed since
            if stored is None:
                raise corrupt(_WHERE, partition, walk.sequence + 1, "the frame is missing")
            yield checked(_WHERE, walk, stored)

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """See the port."""
        found = self._log(partition)
        check_snapshot(partition, found.head, epoch, snapshot.sequence)
        kept = found.snapshots
        kept[snapshot.sequence] = seal_snapshot(partition, snapshot.sequence, found.link(snapshot.sequence)[1], snapshot.payload)
        for old in sorted(kept)[:-KEPT_SNAPSHOTS]:
            del kept[old]

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """See the port."""
        damaged = dict(await self.damaged_snapshots(partition))
        for sequence, trouble in damaged.items():
            log.error("partition %d: the snapshot after frame %d is left out: %s", partition, sequence, trouble)
        kept = self._log(partition).snapshots
        return [Snapshot(sequence, kept[sequence].payload) for sequence in sorted(kept, reverse=True) if sequence not in damaged]

    async def trim(self, partition: Partition, through: int) -> None:
        """See the port."""
        found = self._log(partition)
        if through <= found.head.trimmed:
            return
        check_trim(partition, min(found.snapshots, default=None), through)
        chain = found.link(through)[1]
        del found.frames[: through - found.head.trimmed]
        found.head = found.head._replace(trimmed=through, trimmed_chain=chain)

    async def partitions(self) -> Sequence[Partition]:
        """See the port."""
        return sorted(self.logs)

    async def trimmed(self, partition: Partition) -> int:
        """The last trimmed frame; 0 when none was."""
        return self._log(partition).head.trimmed

    async def torn(self, partition: Partition) -> bool:
        """Never: a frame is there whole, or not at all."""
        return False

    async def damaged_snapshots(self, partition: Partition) -> Sequence[tuple[int, str]]:
        """Sequence and trouble of each kept snapshot that must not be used, newest first."""
        found = self._log(partition)
        troubles = [
            (sequence, snapshot_trouble(partition, found.head, found.snapshots[sequence], found.link(sequence)[1]))
            for sequence in sorted(found.snapshots, reverse=True)
        ]
        return [(sequence, trouble) for sequence, trouble in troubles if trouble]

    def _log(self, partition: Partition) -> MemoryLog:
        """The partition's log; an empty one when nobody ever owned it."""
        first = genesis(self._journal_id, partition)
        return self.logs.get(partition) or MemoryLog(Head(0, 0, first, 0, first))
