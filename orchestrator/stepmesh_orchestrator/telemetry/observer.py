"""The seam between a shard and telemetry: values that go across, and who takes them. None in its place means off.

Invariant: a shard calls an observer once per turn, after the turn's frame is durable, so a replay tells nothing and being off costs one
comparison per turn. Knows no telemetry library and nothing of the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Results, Submit, Task
from stepmesh_orchestrator.core.events import Event
from stepmesh_orchestrator.core.session import Flows
from stepmesh_orchestrator.core.state import State

Key = tuple[RunId, int, int]
"""Run, item, step."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One durable turn. `at_ms`: its time; `tasks`: what it dispatches, by pool; `results`: what workers sent for it, wanted or
    not; `frame_bytes`, `append_s`: of its journal frame."""

    at_ms: int
    events: Sequence[Event]
    tasks: Mapping[str, Sequence[Task]]
    results: Sequence[Results]
    frame_bytes: int
    append_s: float


class PoolReading(NamedTuple):
    """Tasks of one pool without a result. `oldest_s`: age of the oldest, seconds."""

    queued: int
    claimed: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class ShardReading:
    """Gauges and counters of one shard at one moment; the counters since it started. `lanes`: tasks that wait for a place, by pool and
    namespace."""

    partition: Partition
    pools: Mapping[str, PoolReading]
    runs: int
    inbox_messages: int
    outbox_frames: int
    projection_rows: int
    published: int
    redispatched: int
    stale_results: int
    malformed: int
    quarantined: int
    lanes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    breakers: int = 0


class TurnObserver(Protocol):
    """Of one shard. Calls must be quick and must not raise."""

    def adopt(self, state: State, pools: Mapping[Key, str]) -> None:
        """Before the first turn: what a recovery found, and the pools of the attempts in flight."""
        ...

    def stamped(self, submit: Submit) -> Submit:
        """The submission with a trace context: its own, or one derived from the run. The journal then keeps whether it is sampled."""
        ...

    def turn(self, record: TurnRecord) -> None:
        """A turn is durable; its effects are not out yet."""
        ...


class Telemetry(Protocol):
    """Of one process."""

    def observer(self, namespace: Namespace, partition: Partition, flows: Flows) -> TurnObserver:
        """For a shard that is about to start."""
        ...

    def read(self, readings: Sequence[ShardReading]) -> None:
        """The latest readings of all shards; comes every few seconds."""
        ...
