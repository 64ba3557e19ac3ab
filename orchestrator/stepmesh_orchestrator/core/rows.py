"""Rows of the read model: what the core projects and stores keep. Everything in them can be rebuilt from the journal."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId


class RunRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run in the read model. Times are ms since 1970; `status` is a name of `RunStatus`; counts are items."""

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
    created_sequence: int
    finished_sequence: int | None
    run_key: str | None = None
    tags: dict[str, str] | None = None
    created_at: int = 0  # positions of the events that created and ended it
    finished_at: int | None = None
    depth: int = 0  # below the root


class StepRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step of an ended item. `status`: success, failed, skipped or cancelled. `output` and `failure` are JSON."""

    step: int
    step_id: str
    component: str
    status: str
    attempt: int
    output: bytes | None = None
    failure: bytes | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    position: int = 0  # of its last event
    attributes: bytes | None = None  # that a durable function set, and its tags: JSON objects
    tags: bytes | None = None


class RunGone(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A root run leaves the read model, with its sub-runs and all their items."""

    root: RunId


class ItemRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An ended item. `result` is a FlowResult as JSON: `{"outcome": …}`."""

    run: RunId
    item: int
    status: str
    result: bytes
    finished_ms: int
    steps: list[StepRow]


Row = RunRow | ItemRow | RunGone
