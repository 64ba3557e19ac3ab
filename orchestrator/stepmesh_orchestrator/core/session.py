"""One turn at work: the state, the time, what has been decided so far. `emit` is the only way to change the state.

`decide` functions get a session, read its state, and emit events; each event is applied at once (`evolve`), so the next
decision of the turn sees it. Tasks and effects wait here until the runtime made the frame durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stepmesh_broker.protocol.histories import Issued
from stepmesh_broker.protocol.ids import FlowId, RunId
from stepmesh_broker.protocol.messages import Failure, Task
from stepmesh_broker.protocol.permit_letters import PermitLetter
from stepmesh_orchestrator.core.effects import Effect
from stepmesh_orchestrator.core.events import Event, RunCreated, TreeWoken
from stepmesh_orchestrator.core.evolve import STEPS, FlowLookup
from stepmesh_orchestrator.core.flow.compiled import Backoff, CompiledFlow
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.core.places import Places
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.core.state import Item, Run, State, Tree

DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Deployment-wide rules. `item_window`: active items of one run at most, so that a huge batch keeps only a window in memory.
    `secrets_may_rest`: values of secret variables may be journaled, because the journal leaves no trace of them.
    `retain_ms`: how long the journal keeps what recovery does not need. `dormant_ms`: a run with nothing to do for longer leaves memory.
    `pool_window`: tasks of one pool in flight (see runtime/windows.py), 0 = no limit. `weights`: namespace → places that it gets in a
    round, if not one. `breaker_after`: bad outcomes of a component that open its breaker, 0 = never.
    `keep_events_ms`, `events_per_address`: how long, and how many, events from outside are kept for waits to come; `event_bytes`: of one,
    `kept_event_bytes`: of all that a partition keeps. `max_schedules`: of a partition."""

    transport_max_retries: int = 3
    backoff: Backoff = DEFAULT_BACKOFF
    default_max_concurrency: int = 10
    item_window: int = 10_000
    max_depth: int = 32
    max_items: int = 1_000_000
    max_iterations: int = 1_000
    remember_ended_ms: int = 24 * 3_600_000
    remember_ended: int = 100_000
    secrets_may_rest: bool = False
    retain_ms: int = 7 * 24 * 3_600_000
    dormant_ms: int = 30_000
    pool_window: int = 4_000
    weights: Mapping[str, int] = field(default_factory=dict)
    breaker_after: int = 10
    keep_events_ms: int = 7 * 24 * 3_600_000
    events_per_address: int = 1_000
    event_bytes: int = 256 * 1024
    kept_event_bytes: int = 64 * 1024 * 1024
    max_schedules: int = 10_000


class Flows(Protocol):
    """Compiled flows that are at hand without waiting."""

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """By id; None when it is not loaded."""
        ...

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """By document text; None when it was not stored and compiled yet, a failure when it is no valid flow."""
        ...


class _Given:
    """A look-up that has one answer."""

    def __init__(self, flow: CompiledFlow) -> None:
        self._flow = flow

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """The flow given."""
        return self._flow


@dataclass(slots=True)
class Session:
    """The mutable middle of a turn.

    Worklists: `work`, targets that nothing blocks; `resolved`, steps whose dependents were not told yet; `over`, runs whose parents
    were not told yet; `touched`, trees that may have a slot to give. `progress.settle` empties them.
    """

    state: State
    flows: Flows
    router: Router
    settings: EngineSettings = field(default_factory=EngineSettings)
    now: int = 0
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    tasks: dict[str, list[Task]] = field(default_factory=dict)  # by pool
    rows: list[Row] = field(default_factory=list)  # of the read model
    work: deque[tuple[Item, int]] = field(default_factory=deque)
    resolved: deque[tuple[Item, int]] = field(default_factory=deque)  # steps that got their outcome
    over: deque[Run] = field(default_factory=deque)  # runs that ended
    touched: dict[RunId, Tree] = field(default_factory=dict)
    awaiting_flow: dict[bytes, list[tuple[Item, int]]] = field(default_factory=dict)  # derived
    awaiting_child: dict[bytes, list[tuple[Item, int, Issued]]] = field(default_factory=dict)  # derived: of durable functions
    stale_results: int = 0  # dropped: duplicates, late or unknown
    partitions: int = 1  # of the deployment
    awaiting_start: dict[bytes, list[str]] = field(default_factory=dict)  # derived: schedules with due times, by the flow that they need
    letters: deque[PermitLetter] = field(default_factory=deque)  # of this partition to itself, about keys
    asking: dict[RunId, tuple[Item, int, str]] = field(default_factory=dict)  # derived: attempts that wait for a permit, and of which key
    troubles: dict[str, deque[bool]] = field(default_factory=dict)  # derived: the last outcomes of components that had bad ones
    held_back: dict[str, dict[RunId, tuple[Item, int]]] = field(default_factory=dict)  # derived: who waits for which breaker
    canaries: dict[str, RunId] = field(default_factory=dict)  # derived: attempts that try what a breaker guards
    granted: dict[RunId, str] = field(default_factory=dict)  # derived: attempts that hold one
    places: Places | None = field(init=False)  # derived; None: no pool has a limit

    def __post_init__(self) -> None:
        self.places = Places(self.settings.pool_window, self.settings.weights) if self.settings.pool_window else None

    def emit(self, event: Event) -> None:
        """Apply an event and keep it for the frame. One that cannot be applied must never get there: no replay would pass it."""
        of_step = STEPS.get(type(event))
        if of_step is None:
            apply(self.state, event, self.now, self.flows, self.rows)
        else:  # what `apply` does for it, without the call: this is the hottest line of the engine
            state = self.state
            state.at += 1
            of_step(state, event, self.now)
        self.events.append(event)

    def create(self, event: RunCreated, flow: CompiledFlow) -> None:
        """`emit` for a new run. Its flow is given: the registry may have dropped it since it was looked up."""
        self.bring(event, _Given(flow))

    def bring(self, event: RunCreated | TreeWoken, flows: FlowLookup) -> None:
        """`emit` for an event that needs flows, with those."""
        apply(self.state, event, self.now, flows, self.rows)
        self.events.append(event)

    def resolve(self, item: Item, step: int) -> None:
        """The step has its outcome: tell its dependents, and see what its tree may start."""
        self.resolved.append((item, step))
        tree = item.run.tree
        self.touched[tree.root] = tree

    def drop(self, root: RunId | None) -> None:
        """Do nothing more of that tree in this turn, after a defect; what others may do stays. None: the tree is not known."""
        self.work = deque(entry for entry in self.work if root not in (None, entry[0].run.tree.root))
        self.resolved = deque(entry for entry in self.resolved if root not in (None, entry[0].run.tree.root))
        self.over = deque(run for run in self.over if root not in (None, run.tree.root))

    def cause(self, effect: Effect) -> None:
        """Keep an effect for after the frame."""
        self.effects.append(effect)
