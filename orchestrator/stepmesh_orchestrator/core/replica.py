"""A run and its sub-runs, replayed apart from all others: what of them the journal does not say, because it follows from what it says.

That is which steps became needed or ready with an event, and how steps stood at any event. The replica decides nothing: it follows
the live engine's rules of demand, and waits for the journal to tell what came of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.decide.demand import demand, propagate
from stepmesh_orchestrator.core.decide.failure import default_blockers
from stepmesh_orchestrator.core.events import (
    PER_FRAME,
    Event,
    ItemStarted,
    RunCreated,
    RunEnded,
    StepDefaulted,
    StepFailed,
    StepFallingBack,
    StepSkipped,
    StepSucceeded,
    TreeDormant,
    TreeWoken,
)
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.core.gone import GONE, can_be_applied
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import ItemRow, Row
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import DONE, FALLBACK, IDLE, QUEUED, Item, State

_OUTCOMES = (StepSucceeded, StepFailed, StepDefaulted, StepSkipped)


class Consequences(NamedTuple):
    """Steps of the event's item that it made needed, and those that nothing blocks any more; by index, ascending. `reused`: those that have
    their result from another run, with it (None: skipped)."""

    needed: list[int]
    ready: list[int]
    reused: tuple[tuple[int, bytes | None], ...] = ()


NOTHING = Consequences([], [])


class Replica:
    """Of the run `top`; begins before its creation. Events must come in order, each once."""

    def __init__(self, top: RunId, partition: Partition) -> None:
        self.top = top
        self.state = State(partition)
        self.rows: list[Row] = []  # that the last event gave
        self._session = Session(self.state, self, default_router())
        self._members: set[RunId] = set()
        self._flow: CompiledFlow = GONE
        self._over = False

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """The core's look-up: the flow that was given for the present event."""
        return self._flow

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """None: nothing is begun here."""
        return None

    def concerns(self, event: Event) -> bool:
        """Whether it is about the run or a sub-run of it."""
        if isinstance(event, TreeDormant | TreeWoken):  # here it stays in memory
            return False
        if not isinstance(event, RunCreated):
            return event.run in self._members
        return event.run == self.top or (event.parent is not None and event.parent.run in self._members)

    def is_over(self) -> bool:
        """Whether the run has ended, so that no more is to be told of it."""
        return self._over

    def flow_of(self, run: RunId) -> CompiledFlow | None:
        """Of a live run; None when it was deleted."""
        live = self.state.runs.get(run)
        return None if live is None or live.flow is GONE else live.flow

    def take(self, event: Event, position: int, at_ms: int, flow: CompiledFlow | None = None) -> Consequences:
        """Apply an event that concerns it. `flow`: of a created run, None when the store does not have it any more."""
        state = self.state
        state.sequence, state.at = position // PER_FRAME - 1, position - 1
        self.rows = []
        if isinstance(event, RunCreated):
            self._members.add(event.run)
            self._flow = GONE if flow is None else flow
        self._over = isinstance(event, RunEnded) and event.run == self.top
        if not can_be_applied(state, event):
            return NOTHING
        apply(state, event, at_ms, self, self.rows)
        return self._consequences(event)

    def _consequences(self, event: Event) -> Consequences:
        index = getattr(event, "item", None)
        run = None if index is None else self.state.runs.get(event.run)
        item = None if run is None or index is None else run.items.get(index)
        if item is None or run is None or run.flow is GONE:
            return NOTHING
        before, session = bytes(item.phases), self._session
        if isinstance(event, ItemStarted):
            if run.parent is None or run.flow.input_schema is None or not run.flow.input_schema.violations(item.input):
                demand(session, item, [len(run.flow.steps), *run.flow.must_execute])
        elif isinstance(event, _OUTCOMES):
            propagate(session, item, event.step)
        elif isinstance(event, StepFallingBack):
            session.work.append((item, event.step))
        found = self._collect(item, before)
        return found._replace(reused=_reused(item)) if isinstance(event, ItemStarted) and DONE in item.phases[:-1] else found

    def _collect(self, item: Item, before: bytes) -> Consequences:
        ready: list[int] = []
        work, steps = self._session.work, len(item.run.flow.steps)
        while work:
            _, target = work.popleft()
            if item.phases[target] == FALLBACK:
                failed = item.wait(target).last_failure
                assert failed is not None, "the event that began the fallback recorded it"
                demand(self._session, item, default_blockers(item, item.run.flow.steps[target], failed)[::-1])
            elif item.phases[target] == QUEUED and target < steps:
                ready.append(target)
        if before == bytes(item.phases):
            return NOTHING if not ready else Consequences([], sorted(ready))
        needed = [step for step in range(steps) if before[step] == IDLE != item.phases[step]]
        return Consequences(needed, sorted(ready))

    def items_of(self, first: int, limit: int) -> list[Item]:
        """Active items of the run from index `first` on."""
        run = self.state.runs.get(self.top)
        active = {} if run is None else run.items
        return [active[index] for index in sorted(active) if first <= index < first + limit]

    def ended_items(self) -> list[ItemRow]:
        """Rows of the run's items that the last event ended."""
        return [row for row in self.rows if isinstance(row, ItemRow) and row.run == self.top]


class LateReplica(Replica):
    """Of a run whose beginning is not known any more: says what concerns it and those below it, and derives nothing. `flows`: of the run
    and of its sub-runs, as far as they are known."""

    def __init__(self, top: RunId, partition: Partition, flows: Mapping[RunId, CompiledFlow]) -> None:
        super().__init__(top, partition)
        self._members |= flows.keys()
        self._flows = dict(flows)

    def flow_of(self, run: RunId) -> CompiledFlow | None:
        """None when it was deleted."""
        flow = self._flows.get(run, GONE)
        return None if flow is GONE else flow

    def take(self, event: Event, position: int, at_ms: int, flow: CompiledFlow | None = None) -> Consequences:
        """Note what it says of who belongs to the run, and whether that is over."""
        if isinstance(event, RunCreated):
            self._members.add(event.run)
            self._flows[event.run] = GONE if flow is None else flow
        self._over = isinstance(event, RunEnded) and event.run == self.top
        return NOTHING


def _reused(item: Item) -> tuple[tuple[int, bytes | None], ...]:
    outcomes = ((step, item.outcomes[step]) for step, phase in enumerate(item.phases[:-1]) if phase == DONE)
    return tuple((step, outcome if isinstance(outcome, bytes) else None) for step, outcome in outcomes)
