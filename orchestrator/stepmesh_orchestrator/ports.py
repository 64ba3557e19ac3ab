"""What the runtime needs from outside: Journal, Store, Clock. The docstrings are the contract; `tests/contract` is its proof.

A journal is, per partition, an ordered chain of frames (opaque bytes here) with one writer at a time, plus
snapshots that shorten a replay. A store holds what is looked up by key: flows, blobs, and the read model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.core.rows import ItemRow, RunGone, RunRow, StepRow

__all__ = [
    "BlobRecord", "Clock", "FlowRecord", "Frame", "ItemRow", "Journal", "JournalCorrupt", "JournalError", "JournalFull", "Member",
    "Members", "Membership", "MembershipError", "MembershipFull", "Ownership", "RunGone",
    "RunQuery", "RunRow", "Snapshot", "StaleOwner", "StepRow", "Store", "StoreError",
]  # fmt: skip


class JournalError(StepmeshError):
    """The journal could not do what was asked; the shard must stop and recover."""

    default_code = "SM-4000"


class StaleOwner(JournalError):
    """Another owner took the partition over (a higher epoch), or the expected sequence is not the next one."""

    default_code = "SM-4001"


class JournalCorrupt(JournalError):
    """A frame is missing, torn or altered. Names the partition, the sequence and what to run."""

    default_code = "SM-4002"


class JournalFull(JournalError):
    """Retryable: no space left. Nothing of the frame was kept."""

    default_code = "SM-4003"


class JournalTrimmed(JournalError):
    """What was asked for lies at or below the last trimmed frame."""

    default_code = "SM-4004"


class StoreError(StepmeshError):
    """The store could not do what was asked. `retryable`: later it may; nothing of a write was kept."""

    default_code = "SM-4100"
    retryable = False


class Frame(NamedTuple):
    """One durable frame. `sequence` starts at 1 and has no gaps; `epoch` is its writer's."""

    sequence: int
    epoch: int
    payload: bytes


class Ownership(NamedTuple):
    """The right to append. `next_sequence` is what the first append must expect; `journal_id` names this journal for ever."""

    epoch: int
    next_sequence: int
    journal_id: str


class Snapshot(NamedTuple):
    """State after the frame `sequence` (0 = before the first)."""

    sequence: int
    payload: bytes


class Journal(Protocol):
    """Frames and snapshots of all partitions of one deployment."""

    @property
    def durability(self) -> Literal["fsync", "replicated", "process"]:
        """What a returned append survives: power loss, loss of machines, or at most the end of processes."""
        ...

    @property
    def survives(self) -> str:
        """The same exactly, in words that follow "it survives": what takes a returned append, and how much. Known once it is open."""
        ...

    async def open(self) -> None:
        """Connect or create; checks the format version. Raises `JournalError` with the path and the fix."""
        ...

    async def close(self) -> None:
        """Let pending appends finish, then release. Idempotent."""
        ...

    async def acquire(self, partition: Partition, owner: str) -> Ownership:
        """Become the writer: the epoch grows by one, durably, and every earlier owner's append fails from now on.
        Cuts a torn tail (an incomplete last frame) and logs it; raises `JournalCorrupt` for any other damage in the last frame."""
        ...

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """Add the frame with sequence `expected`; returns when durable. All or nothing.
        Raises `StaleOwner`, `JournalFull` or `JournalError`; after a raise nobody may assume the frame absent but a new owner."""
        ...

    def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        """Frames with a sequence above `after`, in order, checking CRC, hash chain and gaps: `JournalCorrupt` at the first bad one.
        Starting below what was trimmed raises `JournalError` SM-4004."""
        ...

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        """Keep it beside the older ones (the newest three stay). Raises `StaleOwner` for an old epoch."""
        ...

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        """Those that verify, newest first. Damaged ones are left out and logged, never raised."""
        ...

    async def trim(self, partition: Partition, through: int) -> None:
        """Forget frames up to and with `through`, which must not be above the oldest kept snapshot's sequence."""
        ...

    async def partitions(self) -> Sequence[Partition]:
        """Those that have frames or owners."""
        ...


class MembershipError(StepmeshError):
    """Who shares the partitions could not be asked or told. `retryable`: later it may; what was held stays held until its time is over."""

    default_code = "SM-4200"
    retryable = True


class MembershipFull(MembershipError):
    """No space is left for what would be written: until there is some, nobody can beat, and nobody can take what another one holds."""


class Member(NamedTuple):
    """One orchestrator process. `node` names this start of it, and no other; `release` is its version. `leaving`: it takes no partition any
    more."""

    node: str
    release: str
    leaving: bool = False


class Members(NamedTuple):
    """Who is there, by `node`, and who holds which partition: as the backend saw it at one moment. What ran out is not in it."""

    members: Mapping[str, Member]
    leases: Mapping[Partition, str]


class Membership(Protocol):
    """Which orchestrators share the partitions of one deployment, and which one holds each. Kept where the journal is kept.

    It is for liveness only: two that believe they hold a partition are told apart by the journal's epochs. Time is the backend's
    own where it has a clock, so that members need not agree on theirs. Every call raises `MembershipError`.
    """

    async def open(self) -> None:
        """Connect or create."""
        ...

    async def close(self) -> None:
        """Release the connection; says nothing to the others. Idempotent."""
        ...

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """I am here, for `ttl_s` from now on, and so are the leases that I hold. One round trip."""
        ...

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """Hold a partition that nobody holds, or whose holder's time is over, or that is mine. False: another one holds it."""
        ...

    async def release(self, partition: Partition, node: str) -> None:
        """Hold it no more. Nothing when it is not mine."""
        ...

    async def leave(self, node: str) -> None:
        """I am gone, with all that I hold."""
        ...


class FlowRecord(NamedTuple):
    """A stored flow document: compact JSON in source key order; `id` is its SHA-256."""

    id: FlowId
    name: str
    document: bytes
    created_ms: int


class BlobRecord(NamedTuple):
    """A stored blob. `kind` is data, flow or binary; JSON blobs hold compact JSON."""

    id: BlobId
    kind: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None


class RunQuery(NamedTuple):
    """Filters of a listing; None = any. Newest first."""

    namespace: Namespace
    status: str | None = None
    flow_name: str | None = None
    root: RunId | None = None
    parent: RunId | None = None
    roots_only: bool = False
    limit: int = 100
    offset: int = 0
    max_depth: int | None = None  # 0: roots only, 1: with their sub-runs, …


class Store(Protocol):
    """Flows, blobs and the read model. Writes return when durable (unless the backend is memory)."""

    async def open(self) -> None:
        """Connect or create, migrate to the current schema."""
        ...

    async def close(self) -> None:
        """Release. Idempotent."""
        ...

    async def put_flow(self, flow: FlowRecord) -> None:
        """Content addressed: storing the same one again changes nothing."""
        ...

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        """None when unknown."""
        ...

    async def flows_named(self, name: str, limit: int) -> Sequence[FlowRecord]:
        """Those of this name, what was stored last first; of one time in the order of their ids."""
        ...

    async def delete_flow(self, flow: FlowId) -> bool:
        """Also when it is a blob of kind flow. False when unknown."""
        ...

    async def put_blob(self, blob: BlobRecord) -> None:
        """Content addressed: storing the same one again changes nothing."""
        ...

    async def get_blob(self, blob: BlobId) -> BlobRecord | None:
        """None when unknown."""
        ...

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        """Upsert rows, then remove those of the root runs that are `gone` and of their sub-runs, in one transaction with the position that
        this brings the partition's projection to. A sequence below the position already held changes nothing (its rows are there, or
        newer ones); the same sequence may come in several calls."""
        ...

    async def projected(self, partition: Partition) -> int:
        """The sequence up to which the read model holds; 0 at first."""
        ...

    async def get_run(self, run: RunId) -> RunRow | None:
        """None when unknown."""
        ...

    async def list_runs(self, query: RunQuery) -> Sequence[RunRow]:
        """Newest first."""
        ...

    async def get_items(self, run: RunId, first: int = 0, limit: int | None = None) -> Sequence[ItemRow]:
        """Ended items in order of their index."""
        ...


class Clock(Protocol):
    """Wall and monotonic time, and waiting; real or virtual."""

    def now_ms(self) -> int:
        """Wall clock, ms since 1970, never going backwards within one process."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin: for leases and durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
