"""The messages that cross a process boundary, as frozen values.

Encoding: MessagePack arrays in field order (see codec.py); fields are only ever added at the end, with a
default. Payloads (`input`, `output`, `data`, …) are JSON text as bytes and are never re-encoded on the way.
Durations and times are integers and say their unit.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, Pool, RunId, WorkerId
from stepmesh_broker.protocol.letters import Letters

FORMAT = 1
"""Version of this contract; sent in every frame. A reader refuses a higher one."""


class ErrorCode(IntEnum):
    """Why a step, an item or a run failed. JSON shows the name, the protocol the number."""

    TIMEOUT = 1
    INVALID_INPUT = 2
    COMPONENT_FAILED = 3
    CANCELLED = 4
    UNREACHABLE = 5
    COMPONENT_NOT_FOUND = 6
    RESOURCE_UNAVAILABLE = 7
    EXPRESSION_FAILURE = 8
    ORCHESTRATOR_ERROR = 9
    WORKER_ERROR = 10


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What went wrong, as a value. `data` is JSON (exception type, traceback, cause); `retry_after_ms` is a worker's wish."""

    code: int
    message: str
    data: bytes | None = None
    retry_after_ms: int | None = None


class Task(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt of one step. `dispatch` counts the publications of this attempt, from 1."""

    run: RunId
    item: int
    step: int
    attempt: int
    dispatch: int
    step_id: str
    component: str
    input: bytes
    root: str = ""  # root run id; "" when it is `run`
    timeout_ms: int = 0  # limit for this attempt; 0 = none
    claim_first: bool = False  # ask the shard before the work starts
    traceparent: str = ""
    path_params: dict[str, str] | None = None
    flow: str = ""  # id of the flow that the step belongs to
    at_ms: int = 0  # when it was sent, by the orchestrator's clock: ms since 1970
    records: int = 0  # of a durable function's history so far
    history: bytes = b""  # those, as histories.py encodes them; "" when they are too many to travel along
    driver: int = 0  # who took them further last, see functions.py; 0 = nobody yet
    seen: int = 0  # of the records, those that this driver had when it let go
    news: bytes = b""  # the others, when not all travel along and these can


class TaskFrame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Ready tasks of one pool, packed by one shard. `journal` names the journal that knows them."""

    format: int
    namespace: Namespace
    pool: Pool
    partition: Partition
    epoch: int
    journal: str
    tasks: list[Task]


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one attempt ended: `output` (JSON) or `failure`. `started_us`: wall clock, µs since 1970; `duration_us`: execution only."""

    run: RunId
    item: int
    step: int
    attempt: int
    output: bytes | None
    failure: Failure | None = None
    started_us: int = 0
    duration_us: int = 0


class Results(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="results"):
    """Results of one worker for one partition."""

    worker: WorkerId
    journal: str
    results: list[Result]
    format: int = FORMAT


class ParentRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The step attempt that started a sub-run from inside a worker."""

    root: RunId
    run: RunId
    item: int
    step: int
    key: str  # deduplicates the submission over retries of the step


class Submit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="submit"):
    """Start a run of a stored flow on N inputs.

    `run` must live on the receiving partition. `variables` and `overrides` are JSON objects. `max_concurrency`: tasks
    in flight in the run tree; None = the default, 0 = no limit. `priority`: -100 … 100; of two that wait for a place the higher one goes
    first. `reply_to`: subject that hears the answer when it came through the inbox.
    """

    run: RunId
    namespace: Namespace
    flow: FlowId
    inputs: list[bytes]
    variables: bytes | None = None
    overrides: bytes | None = None
    max_concurrency: int | None = None
    run_key: str | None = None
    parent: ParentRef | None = None
    traceparent: str = ""
    reply_to: str = ""
    tags: dict[str, str] | None = None
    format: int = FORMAT
    priority: int = 0


class Cancel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="cancel"):
    """Stop a run and all its sub-runs. Durable functions among them are told, and may clean up first, unless it is by `force`."""

    run: RunId
    reason: str = ""
    reply_to: str = ""
    format: int = FORMAT
    force: bool = False


InboxMessage = Results | Submit | Cancel | Letters
"""What an orchestrator shard accepts on its inbox; one per broker message."""


class TaskRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names one attempt of one step."""

    run: RunId
    item: int
    step: int
    attempt: int


# --- control plane: small, fast, not durable -------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="claim"):
    """A worker asks before it works on tasks of one partition, or while it does (`running`). Answer: `Claimed`."""

    worker: WorkerId
    tasks: list[TaskRef]
    running: bool = False


class Claimed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="claimed"):
    """One verdict per task of the `Claim`, in its order. `lease_ms`: renew by heartbeat well before it is over."""

    verdicts: list[int]
    lease_ms: int


class Verdict(IntEnum):
    """What a shard says of a claim or heartbeat."""

    GRANTED = 1
    GONE = 2  # done, cancelled, superseded or unknown: drop the task, tell nobody
    HELD = 3  # another worker holds the lease: drop the copy
    CANCELLED = 4  # stop the work; no result is wanted
    NOT_READY = 5  # the partition is recovering: ask again shortly


class Progress(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A running task's sign of life. `fraction` in 0..1 or None; `details` is JSON."""

    task: TaskRef
    fraction: float | None = None
    details: bytes | None = None


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="heartbeat"):
    """All tasks that a worker runs for one partition, in one message. Answer: `Claimed`, a verdict per task."""

    worker: WorkerId
    tasks: list[Progress]


class SendEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="send_event"):
    """An event for everybody who waits at the address (name, key), now or within the time that it is kept. `data`: JSON. `id`: deduplicates
    it at its address. Goes to the address's home (`ids.home_of`). Answer: `EventKept`, once it is journaled."""

    namespace: Namespace
    name: str
    key: str
    id: str
    data: bytes = b"null"


class SettleToken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="settle_token"):
    """Somebody outside answers what a step waits for: with `value` (JSON), or by rejecting it, for the reason `value`. Goes to the
    partition of the run that the token names (`tokens.read_token`). Answer: `Accepted`, or `Refused` SM-1060 for a token that is unknown,
    settled or expired."""

    namespace: Namespace
    token: str
    value: bytes = b"null"
    rejected: bool = False


class Pause(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="pause"):
    """Let nothing new of a root run and its sub-runs start. Answer: `Accepted` once journaled; `existing`: it was paused already."""

    run: RunId
    reason: str = ""


class Resume(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="resume"):
    """Let a root run go on that is paused, and try again what of it is blocked. `version`: the one that its functions belong to from now
    on, or an unambiguous part of it; "" = as before. Answer: `Accepted` once journaled; `existing`: there was nothing to do."""

    run: RunId
    version: str = ""


class Wake(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="wake"):
    """End these sleeps of a run now; they are named, so that a repeated request wakes no later one. Answer: `Accepted` once journaled;
    `existing`: none of them slept any more."""

    run: RunId
    tasks: list[TaskRef]


class AskUpdate(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ask_update"):
    """Ask a durable function of a live run for a change. `id`: the asker's; said again with it, it is one update. `arguments`: JSON.
    `item`, `step` (its id): which function, where the run has several. Answer: `UpdateTaken` once journaled."""

    run: RunId
    id: str
    name: str
    arguments: bytes = b"{}"
    item: int | None = None
    step: str | None = None


RunMessage = Submit | Cancel | Pause | Resume | Wake | SettleToken
"""What clients ask of the owner of a partition."""
ControlMessage = Claim | Heartbeat | RunMessage | SendEvent | AskUpdate
"""What a shard answers on its control subject. `Submit` and `Cancel` may come here (answered once journaled) or through the inbox."""


class ComponentInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A component that a worker offers. Schemas are JSON Schema, as JSON text. `version`: of the code of a durable function; "" for any
    other component, and when its worker takes no more."""

    path: str
    description: str = ""
    input_schema: bytes | None = None
    output_schema: bytes | None = None
    version: str = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="hello"):
    """A worker's presence, published when it starts and every few seconds; `stopping` when it leaves."""

    worker: WorkerId
    pool: Pool
    capacity: int
    version: str
    components: list[ComponentInfo]
    running: int = 0
    stopping: bool = False
    exclusive: bool = False  # every task of the pool is claimed before it starts
    format: int = FORMAT


class Stop(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="stop"):
    """Broadcast to workers: these tasks are cancelled."""

    tasks: list[TaskRef]


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="accepted"):
    """Answer to a `RunMessage` once its effect is journaled. `existing`: the run key was known already, or there was nothing to do."""

    run: RunId
    existing: bool = False


class Refused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="refused"):
    """Answer to anything that cannot be done. `code` is `SM-…`; `data` is JSON (e.g. the violations)."""

    code: str
    message: str
    hint: str = ""
    data: bytes | None = None


class EventKept(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="event_kept"):
    """Answer to a `SendEvent`. `matched`: how many that waited are given it; `existing`: one with its id was kept already, and nothing
    came of this one."""

    id: str
    matched: int
    existing: bool = False


class UpdateTaken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="update_taken"):
    """Answer to an `AskUpdate`: the reply is an event of the run above `position`, of this item and step (index). `existing`: it was taken
    before."""

    run: RunId
    item: int
    step: int
    position: int
    existing: bool = False


Answer = Accepted | Refused | Claimed | EventKept | UpdateTaken
