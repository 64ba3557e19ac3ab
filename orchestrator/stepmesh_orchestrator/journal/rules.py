"""What every journal backend refuses, and in which words: the rules stand here once, the backends call them.

Keeps the invariant that only the newest owner appends, and only the next frame. Pure; must not know any storage: `where`
is the data folder, or the address with its scheme, by which a person finds the journal.
"""

from __future__ import annotations

from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame, StoredSnapshot, snapshot_defect
from stepmesh_orchestrator.ports import Frame, JournalCorrupt, JournalError, JournalTrimmed, StaleOwner

KEPT_SNAPSHOTS = 3


class JournalUnavailable(JournalError):
    """The journal cannot be opened, is locked by another process, or was closed. Names the path and the fix."""

    default_code = "SM-4005"


class JournalFormatError(JournalError):
    """Another format version, or a file that is no journal."""

    default_code = "SM-4006"


class JournalBroken(JournalError):
    """The disk failed under the journal: what is durable is unknown until it is opened again."""

    default_code = "SM-4007"


class JournalInUse(JournalError):
    """Somebody else writes to the partition that is repaired."""

    default_code = "SM-4220"


class JournalAbsent(JournalError):
    """There is no journal of that namespace, and whoever looks at one makes none."""

    default_code = "SM-4222"

    @classmethod
    def of(cls, where: str) -> JournalAbsent:
        """The error for an address and a namespace."""
        return cls(f"there is no journal in {where}", hint="name the address and the namespace of the deployment")


class Head(NamedTuple):
    """Where a partition stands: its owner's epoch, the last frame and its link, the last trimmed frame and its link."""

    epoch: int
    sequence: int
    chain: bytes
    trimmed: int
    trimmed_chain: bytes


def corrupt(where: str, partition: Partition, sequence: int, reason: str) -> JournalCorrupt:
    """The error for a bad frame."""
    message = f"the journal in {where} is damaged: partition {partition}, frame {sequence}: {reason}"
    if "://" in where:
        return JournalCorrupt(
            message, hint="look with: stepmesh journal verify --journal ADDRESS; then repair it, or restore a replica or a backup"
        )
    return JournalCorrupt(message, hint=f"run: stepmesh journal verify --data {where}")


def check_owner(partition: Partition, head: Head | None, epoch: int) -> Head:
    """The head, when `epoch` owns the partition. Raises `StaleOwner`."""
    current = head.epoch if head else 0
    if head is None or current != epoch:
        raise StaleOwner(
            f"partition {partition} is owned by epoch {current}, not {epoch}", hint="this owner must stop; the newer one goes on"
        )
    return head


def check_untouched(partition: Partition, seen: Head | None, found: Head | None) -> None:
    """Raises `JournalInUse` when the partition is not as the repair saw it."""
    if seen != found:
        raise JournalInUse(
            f"partition {partition} was written to while it was looked at", hint="stop the deployment, then repair; nothing was changed"
        )


def check_append(partition: Partition, head: Head | None, epoch: int, expected: int) -> Head:
    """The head that the frame `expected` follows. Raises `StaleOwner`."""
    found = check_owner(partition, head, epoch)
    if found.sequence + 1 != expected:
        message = f"the next frame of partition {partition} is {found.sequence + 1}, not {expected}"
        raise StaleOwner(message, hint="this owner must stop and recover from the journal")
    return found


def check_snapshot(partition: Partition, head: Head | None, epoch: int, sequence: int) -> Head:
    """Raises `StaleOwner`, or `JournalError` for a snapshot of frames that are not there."""
    found = check_owner(partition, head, epoch)
    if not found.trimmed <= sequence <= found.sequence:
        raise JournalError(
            f"partition {partition} holds frames {found.trimmed + 1} to {found.sequence}: no snapshot after frame {sequence}"
        )
    return found


def check_trim(partition: Partition, oldest_snapshot: int | None, through: int) -> None:
    """Raises `JournalError` when a kept snapshot needs a frame that would go."""
    if oldest_snapshot is None or through > oldest_snapshot:
        kept = "has no snapshot" if oldest_snapshot is None else f"has its oldest snapshot after frame {oldest_snapshot}"
        raise JournalError(f"partition {partition} cannot be trimmed through frame {through}: it {kept}", hint="save snapshots first")


def check_start(where: str, partition: Partition, head: Head, after: int) -> None:
    """Whether reading may start after frame `after`. Raises SM-4004 below what was trimmed, `JournalCorrupt` above the last frame."""
    if after < head.trimmed:
        message = f"partition {partition} was trimmed through frame {head.trimmed}; reading cannot start after {after}"
        raise JournalTrimmed(message, hint="start from a snapshot")
    if after > head.sequence:
        raise corrupt(where, partition, head.sequence + 1, "the frame is missing, a later one was asked for")


def check_last(where: str, partition: Partition, head: Head, previous: tuple[int, bytes], last: StoredFrame | None) -> None:
    """A new owner's look at the last frame; `previous` is the epoch and link of the one before. Raises `JournalCorrupt`."""
    if head.sequence == head.trimmed:
        return
    if last is None:
        raise corrupt(where, partition, head.sequence, "the frame is missing")
    reason = ChainWalk(partition, head.sequence - 1, previous[1], previous[0]).defect(last)
    if not reason and last.chain != head.chain:
        reason = "it is not the last frame that was appended"
    if not reason and last.epoch > head.epoch:
        reason = f"its epoch {last.epoch} is above the owner's epoch {head.epoch}"
    if reason:
        raise corrupt(where, partition, head.sequence, reason)


def checked(where: str, walk: ChainWalk, stored: StoredFrame) -> Frame:
    """The frame, when it is the next one of the walk. Raises `JournalCorrupt`."""
    reason = walk.defect(stored)
    if reason:
        raise corrupt(where, walk.partition, walk.sequence + 1, reason)
    return Frame(stored.sequence, stored.epoch, stored.payload)


def snapshot_trouble(partition: Partition, head: Head, snapshot: StoredSnapshot, link: bytes) -> str:
    """Why a kept snapshot must not be used, empty when it may be; `link` is that of its frame as the journal has it."""
    reason = snapshot_defect(partition, snapshot)
    if reason:
        return reason
    if not head.trimmed <= snapshot.sequence <= head.sequence:
        return f"the journal holds frames {head.trimmed + 1} to {head.sequence} only"
    return "" if snapshot.chain == link else "it belongs to another history (hash chain)"
