"""Bodies of `/api/v1` as Stepflow 0.13 writes them: camelCase, numbers for statuses, no member for what is not known.

Data of flows (`input`, `output`, …) is JSON text that is passed on as it came, so that numbers keep their digits and objects their
order. The OpenAPI document is made from these types; their docstrings are its descriptions.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Json = msgspec.Raw
JsonObject = Annotated[Json, msgspec.Meta(extra_json_schema={"type": "object"})]
MaybeObject = Annotated[Json, msgspec.Meta(extra_json_schema={"type": ["object", "null"]})]
NULL = b"null"
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100)]
Uint64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # msgspec checks no larger bound
Rfc3339 = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Status = Annotated[int, msgspec.Meta(ge=0, le=6, description="1 running, 2 completed, 3 failed, 4 cancelled, 5 paused, 6 recovery failed")]
ErrorNumber = Annotated[int, msgspec.Meta(ge=0, le=10, description="stepflow.v1.TaskErrorCode")]
Level = Annotated[int, msgspec.Meta(ge=0, le=3, description="1 fatal, 2 error, 3 warning")]


class Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Members without a value are left out."""


class Empty(Camel, frozen=True, kw_only=True):
    """An empty object."""


class Document(Camel, frozen=True, kw_only=True):
    """An OpenAPI document."""


# --- health, components -------------------------------------------------------------------------------------------


class Build(Camel, frozen=True, kw_only=True):
    """What is running. `rustcVersion` names the Python."""

    git_version: str
    dirty: bool
    rustc_version: str
    profile: str
    features: list[str]
    target: str


class Health(Camel, frozen=True, kw_only=True):
    """The gateway answers."""

    status: str
    timestamp: Rfc3339
    build: Build


class Component(Camel, frozen=True, kw_only=True):
    """`path`: as a flow writes it. `componentId`: as its plugin names it."""

    component_id: str
    path: str
    plugin: str
    description: str | None = None
    input_schema: Json | None = None
    output_schema: Json | None = None


class FailedPlugin(Camel, frozen=True, kw_only=True):
    """A plugin whose components are not known, and why."""

    plugin: str
    error: str


class Components(Camel, frozen=True, kw_only=True):
    """`complete`: the components of every plugin are known."""

    components: list[Component]
    complete: bool
    failed_plugins: list[FailedPlugin]


class Pool(Camel, frozen=True, kw_only=True):
    """In tasks. `wanted` is `queued` and `leased` together: what to scale by. `oldestSeconds`: how long the oldest that waits does."""

    pool: str
    wanted: int
    queued: int
    leased: int
    oldest_seconds: float
    workers: int
    capacity: int


class Pools(Camel, frozen=True, kw_only=True):
    """By name."""

    pools: list[Pool]


# --- flows --------------------------------------------------------------------------------------------------------


class StoreFlow(Camel, frozen=True, kw_only=True):
    """`dryRun`: only check."""

    flow: JsonObject
    dry_run: bool | None = None


class Diagnostic(Camel, frozen=True, kw_only=True):
    """Something about a flow. `kind`: a code of docs/errors.md; `code`: its number; `data`: line, column, hint."""

    kind: str
    code: Uint32
    level: Level
    formatted: str
    experimental: bool
    data: Json | None = None
    path: str | None = None


class Diagnostics(Camel, frozen=True, kw_only=True):
    """All of them, and how many of each level."""

    diagnostics: list[Diagnostic]
    num_fatal: Uint32
    num_error: Uint32
    num_warning: Uint32


class FlowStored(Camel, frozen=True, kw_only=True):
    """`stored` is false for an invalid flow (then `flowId` is empty) and for a dry run."""

    flow_id: str
    stored: bool
    diagnostics: Diagnostics


class Example(Camel, frozen=True, kw_only=True):
    """An input to try the flow with."""

    name: str
    input: Json
    description: str | None = None


class Flow(Camel, frozen=True, kw_only=True):
    """A stored document. `allExamples`: its examples and the inputs of its test cases."""

    flow: JsonObject
    flow_id: str
    all_examples: list[Example]


class FlowOfRun(Camel, frozen=True, kw_only=True):
    """The document that a run runs."""

    flow: JsonObject
    flow_id: str


class Variable(Camel, frozen=True, kw_only=True):
    """A variable that a flow declares. `envVar`: what a client reads it from."""

    required: bool
    description: str | None = None
    default_value: Json | None = None
    schema: Json | None = None
    env_var: str | None = None


class Variables(Camel, frozen=True, kw_only=True):
    """By name, in the flow's order."""

    flow_id: str
    variables: dict[str, Variable]


# --- runs ---------------------------------------------------------------------------------------------------------


class CreateRun(Camel, frozen=True, kw_only=True):
    """One item for each member of `input`. `namespace`: of a tenant, if not the deployment's own. `wait`: answer when the run ended, with
    results, at the latest after `timeoutSecs`."""

    flow_id: str
    input: list[Json] = []
    overrides: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    variables: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    max_concurrency: Uint32 | None = None
    priority: Priority | None = None
    namespace: Name | None = None
    wait: bool | None = None
    timeout_secs: Uint64 | None = None


class ItemCounts(Camel, frozen=True, kw_only=True):
    """How many items there are, and how they stand."""

    total: Uint32
    completed: Uint32
    running: Uint32
    failed: Uint32
    cancelled: Uint32


class RunSummary(Camel, frozen=True, kw_only=True):
    """A run. The `…Seqno` are `sequenceNumber`s of its events."""

    run_id: str
    flow_id: str
    status: Status
    items: ItemCounts
    created_at: Rfc3339
    root_run_id: str
    created_at_seqno: Uint64
    flow_name: str | None = None
    completed_at: Rfc3339 | None = None
    parent_run_id: str | None = None
    orchestrator_id: str | None = None
    finished_at_seqno: Uint64 | None = None


class ItemResult(Camel, frozen=True, kw_only=True):
    """An item: `output`, or what went wrong, or neither while it runs."""

    item_index: Uint32
    status: Status
    output: Json | None = None
    error_message: str | None = None
    error_code: ErrorNumber | None = None
    error_data: Json | None = None
    completed_at: Rfc3339 | None = None


class StepStatus(Camel, frozen=True, kw_only=True):
    """A step of an item. `journalSeqno`: `sequenceNumber` of its last event. `token`: of one that awaits somebody outside, whom it lets
    answer. `attributes`, `tags`: those that a durable function set."""

    step_id: str
    step_index: Uint32
    item_index: Uint32
    status: Status
    journal_seqno: Uint64
    component: str | None = None
    output: Json | None = None
    error_message: str | None = None
    error_code: ErrorNumber | None = None
    error_data: Json | None = None
    started_at: Rfc3339 | None = None
    completed_at: Rfc3339 | None = None
    updated_at: Rfc3339 | None = None
    token: str | None = None
    attributes: Json | None = None
    tags: Json | None = None


class Created(Camel, frozen=True, kw_only=True):
    """`results`: if the call waited, all items as they are then."""

    summary: RunSummary
    results: list[ItemResult]


class Run(Camel, frozen=True, kw_only=True):
    """A run with the steps of its items."""

    summary: RunSummary
    steps: list[StepStatus]


class Runs(Camel, frozen=True, kw_only=True):
    """Newest first."""

    runs: list[RunSummary]


class Items(Camel, frozen=True, kw_only=True):
    """All items of a run."""

    results: list[ItemResult]


class Steps(Camel, frozen=True, kw_only=True):
    """Steps of a run, by item."""

    steps: list[StepStatus]


class Step(Camel, frozen=True, kw_only=True):
    """One step of one item."""

    step: StepStatus


class Cancelled(Camel, frozen=True, kw_only=True):
    """The run as it is now."""

    summary: RunSummary


# --- blobs --------------------------------------------------------------------------------------------------------


class PutBlob(Camel, frozen=True, kw_only=True):
    """Any JSON value. Bytes are sent as `application/octet-stream` instead."""

    data: Json
    blob_type: Literal["data", "flow"] | None = None
    filename: str | None = None


class BlobStored(Camel, frozen=True, kw_only=True):
    """The id is the SHA-256 of the content: of the compact JSON, or of the bytes."""

    blob_id: str
    filename: str | None = None


class Blob(Camel, frozen=True, kw_only=True):
    """A blob. `data` is null for bytes: ask for them with `Accept: application/octet-stream`."""

    data: Json
    blob_type: str
    blob_id: str
    filename: str | None = None
    content_type: str | None = None
