"""Requests that any orchestrator answers on the api subject, and their answers.

Same encoding as messages.py (MessagePack arrays, tagged). Payload fields are JSON text as bytes. Clients, the command line and the
gateway speak it; it carries no rules. Times are ms since 1970, waits are ms.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.dead_letters import DeadLetters, DropDeadLetter, ListDeadLetters, ResendDeadLetter, Resent
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, Pool, RunId
from stepmesh_broker.protocol.messages import ComponentInfo, Refused
from stepmesh_broker.protocol.pools import ListPools, Pools
from stepmesh_broker.protocol.queries import AskQuery, QueryAnswer
from stepmesh_broker.protocol.schedules import ScheduleAnswer, ScheduleRequest


class GetInfo(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_info"):
    """What is this deployment? Answer: `Info`."""


class Info(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="info"):
    """`limits`: name → value in the unit that the name says (message_bytes, …). `shared`: by several orchestrators. `survives`: what
    `durability` means there, in words."""

    version: str
    namespace: Namespace
    partitions: int
    durability: str
    journal: str
    limits: dict[str, int]
    shared: bool = False
    survives: str = ""


class StoreFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="store_flow"):
    """`document`: the flow as JSON. Answer: `FlowStored`. `dry_run`: only check."""

    document: bytes
    dry_run: bool = False


class FlowStored(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="flow_stored"):
    """`diagnostics`: JSON list of `{code, level, message, path, line?, column?, hint?}`. `stored` is False for an invalid flow."""

    flow: FlowId
    stored: bool
    diagnostics: bytes


class GetFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_flow"):
    """Answer: `FlowData`, or `Refused` SM-5004."""

    flow: FlowId


class FlowData(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="flow_data"):
    """The stored document, compact JSON."""

    flow: FlowId
    document: bytes


class DeleteFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete_flow"):
    """Answer: `Deleted`, or `Refused` SM-5004, SM-5013 while a live run uses it."""

    flow: FlowId


class DeleteRun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete_run"):
    """Remove an ended run and all below it. Answer: `Deleted`, or `Refused` SM-5003, SM-5012 while it runs, SM-5014 for a sub-run."""

    run: RunId


class Deleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="deleted"):
    """It is gone."""


class GetVariables(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_variables"):
    """The variables that a flow declares. Answer: `Variables`, or `Refused` SM-5004."""

    flow: FlowId


class Variable(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="variable"):
    """`default` and `schema` are JSON; `default` None: there is none. `env_var`: what a client reads it from. `secret`: never shown."""

    name: str
    required: bool
    schema: bytes
    description: str | None = None
    default: bytes | None = None
    env_var: str | None = None
    secret: bool = False


class Variables(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="variables"):
    """In the order in which the flow declares them."""

    flow: FlowId
    variables: list[Variable]


class PutBlob(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="put_blob"):
    """Answer: `BlobStored`. `kind`: data (JSON), flow (JSON) or binary."""

    data: bytes
    kind: str = "data"
    filename: str | None = None
    content_type: str | None = None


class BlobStored(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="blob_stored"):
    """Lower-case hex SHA-256 of the compact JSON (or of the bytes, for binary)."""

    blob: BlobId


class GetBlob(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_blob"):
    """Answer: `BlobData`, or `Refused` SM-5005."""

    blob: BlobId


class BlobData(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="blob_data"):
    """A blob as stored."""

    blob: BlobId
    kind: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None


class RunSummary(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="run_summary"):
    """A run. `status`: queued, running, paused, completed, failed, cancelled. Counts are items."""

    run: RunId
    namespace: Namespace
    partition: Partition
    flow: FlowId
    flow_name: str
    status: str
    total: int
    completed: int
    failed: int
    cancelled: int
    created_ms: int
    finished_ms: int | None
    root: RunId
    parent: RunId | None
    parent_step: str | None
    run_key: str | None = None
    tags: dict[str, str] | None = None
    created_at: int = 0  # position of the event that created it, see `RunEvent`
    finished_at: int | None = None
    owner: str = ""  # the orchestrator that owns the run's partition now; "" for an ended run

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status not in ("queued", "running", "paused")


class GetRun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_run"):
    """Answer: `RunInfo`, or `Refused` SM-5003. With `wait_ms` the answer comes when the run ended, at the latest after that time."""

    run: RunId
    wait_ms: int = 0
    results: bool = False


class ItemResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="item_result"):
    """An ended item: `result` is a FlowResult as JSON."""

    item: int
    status: str
    result: bytes
    finished_ms: int


class RunInfo(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="run_info"):
    """`results` are of ended items only, by index, at most 1,000: page on with `GetItems`."""

    summary: RunSummary
    results: list[ItemResult]


class GetItems(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_items"):
    """Answer: `Items`, or with `live` `Refused` SM-5003. `live`: all items; those that have not ended with status running, an empty
    `result` and `finished_ms` 0, those that a cancel kept from starting as cancelled."""

    run: RunId
    first: int = 0
    limit: int = 1000
    live: bool = False


class Items(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="items"):
    """Items by index, from `first` on. `more`: the page is full, by `limit` or by bytes; go on after its last item."""

    results: list[ItemResult]
    more: bool = False


class GetSteps(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_steps"):
    """Answer: `Steps`, live and ended ones, of one item or (None) of the items from index `first` on."""

    run: RunId
    item: int | None = None
    first: int = 0
    as_of: int | None = None  # the steps as they were at this position, see `RunEvent`; None: now


class StepStatus(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="step_status"):
    """`status`: waiting, queued, running, retrying, sleeping, awaiting, child, success, failed, skipped, cancelled, not_needed.
    `fraction` (0..1) and `details` (JSON): the progress of which a running attempt's worker told last; `details` of a step that awaits
    somebody outside: for what."""

    item: int
    step: int
    step_id: str
    component: str
    status: str
    attempt: int
    output: bytes | None = None
    failure: bytes | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    fraction: float | None = None
    details: bytes | None = None
    position: int = 0  # of the step's last event; 0 when it is not known
    token: str = ""  # of a step that awaits somebody outside: settles it
    attributes: bytes | None = None  # that a durable function set, and its tags: JSON objects
    tags: bytes | None = None


class Steps(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="steps"):
    """In order of item and step, items whole. `more`: the page is full (1,000 items, or by bytes); go on behind its last item."""

    steps: list[StepStatus]
    more: bool = False


class ListRuns(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_runs"):
    """Answer: `Runs`, newest first."""

    status: str | None = None
    flow_name: str | None = None
    root: RunId | None = None
    parent: RunId | None = None
    roots_only: bool = False
    limit: int = 100
    offset: int = 0
    max_depth: int | None = None  # 0: roots only, 1: with their sub-runs, …
    namespace: Namespace | None = None  # of a tenant; None: the deployment's own


class Runs(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="runs"):
    """A page of runs."""

    runs: list[RunSummary]


class GetEvents(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_events"):
    """Answer: `Events`: those of the run (and its sub-runs) with a position above `after`; waits up to `wait_ms` for the first one."""

    run: RunId
    after: int = 0
    limit: int = 1000
    wait_ms: int = 0


class RunEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="run_event"):
    """`kind`: run_created, item_started, steps_needed, step_ready, step_started, step_completed, step_failed, step_defaulted,
    step_skipped, step_retrying, item_completed, run_completed, … `position` never falls within a run; what follows from an event at once
    (steps needed, ready) shares it, and no page ends between them."""

    position: int
    at_ms: int
    kind: str
    run: RunId
    item: int | None
    step_id: str | None
    data: bytes  # JSON object: step (index), attempt, status, result, error; steps (ids); flow_id, items, parent_run_id; …


class Events(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="events"):
    """`ended`: the run is over and nothing comes after the last event of this page."""

    events: list[RunEvent]
    ended: bool


class Explain(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="explain"):
    """Why does the run not go on? Answer: `Explained`."""

    run: RunId


class Explained(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="explained"):
    """One line per live step or wait: what it waits for and since when."""

    lines: list[str]


class ListComponents(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_components"):
    """Answer: `Components`, from what workers said last; never waits for one."""


class ComponentEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="component_entry"):
    """`component` as the worker named it; `path` as a flow writes it; `pool` whose workers offer it."""

    path: str
    pool: Pool
    component: ComponentInfo
    workers: int


class Components(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="components"):
    """All known components by path. `silent`: pools that are configured, or hold tasks, and of which no worker was heard."""

    components: list[ComponentEntry]
    silent: list[Pool] = []


class ListQueues(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_queues"):
    """Which pools does this deployment route to? Answer: `Queues`."""


class Queue(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="queue"):
    """A pool of the configuration. `kind`: type of its plugin (builtin, grpc, nats, mcp, mock, worker). `prefix`: its shortest route."""

    pool: Pool
    plugin: str
    kind: str
    prefix: str = ""


class Queues(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="queues"):
    """`open`: without a configuration a route may lead to any pool, so that no name is unknown."""

    queues: list[Queue]
    open: bool


ApiRequest = (
    GetInfo | StoreFlow | GetFlow | DeleteFlow | DeleteRun | GetVariables | PutBlob | GetBlob | GetRun | GetItems
    | GetSteps | ListRuns | GetEvents | Explain | ListComponents | ListQueues | ListPools | ContinueRun
    | ScheduleRequest | AskQuery | ListDeadLetters | DropDeadLetter | ResendDeadLetter
)  # fmt: skip
ApiAnswer = (
    Info | FlowStored | FlowData | Deleted | Variables | BlobStored | BlobData | RunInfo | Items | Steps | Runs | Events
    | Explained | Components | Queues | Pools | Continued | Refused
    | ScheduleAnswer | QueryAnswer | DeadLetters | Resent
)  # fmt: skip
