"""Events → counts in windows: what each event tells of pools, flows and namespaces, by a look at the state just before it.

Invariant: it decides by events and state alone, so a replay counts the same. Tokens and cost are those that outputs of tasks tell
(usage.py); what a step of the engine passes on, or a run takes from its sub-runs, is not told again.

A task's latency is from its dispatch to its outcome in the journal, a run's from its creation to its end; the wait of a task is from the
moment its step could begin (the item's start, the last outcome that it needs, the end of a retry's delay) to its dispatch.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import FlowId, RunId
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.events import Event
from stepmesh_orchestrator.core.evolve import FlowLookup
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.flow.plan import PlanFailed, PlanSkipped
from stepmesh_orchestrator.core.flow.routing import Route, Router
from stepmesh_orchestrator.core.state import RUNNING, Item, Run, State
from stepmesh_projector.usage import usage_in
from stepmesh_projector.windows import FLOW, NAMESPACE, POOL, Label, Window, Windows

UNROUTED = "-"
"""The pool of tasks whose component has no route any more."""
_OUTCOMES: dict[type, str] = {
    events.StepSucceeded: "succeeded",
    events.StepFailed: "failed",
    events.StepDefaulted: "failed",
    events.StepFallingBack: "failed",
    events.StepRetrying: "retried",
}
_ENDINGS = {"completed": "runs_completed", "failed": "runs_failed", "cancelled": "runs_cancelled"}


class _Sent(NamedTuple):
    at_ms: int
    pool: str


class MeterImage(msgspec.Struct, array_like=True):
    """What a meter remembers: when active items began, and what is in flight."""

    began: list[tuple[RunId, int, int]] = []
    sent: list[tuple[RunId, int, int, int, str]] = []


class Meter:
    """Of one partition. Called with each event just before it is applied; see `Watch`."""

    def __init__(self, windows: Windows, flows: FlowLookup, router: Router, image: MeterImage | None = None) -> None:
        known = MeterImage() if image is None else image
        self._windows = windows
        self._flows = flows
        self._router = router
        self._began = {(run, item): at_ms for run, item, at_ms in known.began}
        self._sent = {(run, item, step): _Sent(at_ms, pool) for run, item, step, at_ms, pool in known.sent}
        self._needs: dict[FlowId, list[list[int]]] = {}
        self._pools: dict[tuple[str, str | None], str] = {}

    def image(self) -> MeterImage:
        """To go on from later."""
        began = [(run, item, at_ms) for (run, item), at_ms in self._began.items()]
        return MeterImage(began, [(*key, sent.at_ms, sent.pool) for key, sent in self._sent.items()])

    def __call__(self, state: State, event: Event, at_ms: int) -> None:
        """Count."""
        kind = type(event)
        outcome = _OUTCOMES.get(kind)
        if outcome is not None:
            self._ended(state, event, outcome, at_ms)  # type: ignore[arg-type]  # narrowed by identity, for speed
        elif kind is events.StepDispatched:
            self._dispatched(state, event, at_ms)  # type: ignore[arg-type]  # as above
        elif kind is events.ItemStarted:
            self._began[event.run, event.item] = at_ms  # type: ignore[union-attr]  # as above
        elif kind is events.ItemEnded:
            self._item_ended(state, event)  # type: ignore[arg-type]  # as above
        elif kind is events.RunEnded:
            self._run_ended(state, event, at_ms)  # type: ignore[arg-type]  # as above
        elif kind is events.TreeDormant:
            self._left(state, event)  # type: ignore[arg-type]  # as above
        elif kind is events.RunCreated:
            self._run_created(state, event, at_ms)  # type: ignore[arg-type]  # as above

    def _left(self, state: State, event: events.TreeDormant) -> None:
        """Nothing is kept for a run that leaves memory: its next step waits from the last outcome that it needs."""
        for name in (event.run, *event.others):
            run = state.runs.get(name)
            for item in () if run is None else run.items:
                self._began.pop((name, item), None)

    def _run_created(self, state: State, event: events.RunCreated, at_ms: int) -> None:
        flow = self._flows.get(event.flow, event.overrides)
        name = event.flow if flow is None else flow.name or event.flow
        for window in self._at(state, at_ms, Label(event.namespace, FLOW, name), Label(event.namespace, NAMESPACE, "")):
            window.counts.runs_started += 1

    def _dispatched(self, state: State, event: events.StepDispatched, at_ms: int) -> None:
        run = state.runs[event.run]
        item = run.items[event.item]
        pool = self._pool_of(item, run.flow.steps[event.step])
        self._sent[event.run, event.item, event.step] = _Sent(at_ms, pool)
        ready_ms = self._ready_ms(item, event)
        for window in self._at(state, at_ms, Label(run.namespace, POOL, pool), _flow_of(run), Label(run.namespace, NAMESPACE, "")):
            window.counts.dispatched += 1
            if ready_ms is not None:
                window.wait.add(max(0, at_ms - ready_ms))

    def _ended(self, state: State, event: events.StepSucceeded, outcome: str, at_ms: int) -> None:
        sent = self._sent.pop((event.run, event.item, event.step), None)
        if sent is None:
            return  # it ran nowhere: a step of the engine, or one that its needs ended
        run = state.runs[event.run]
        of_pool = self._at(state, at_ms, Label(run.namespace, POOL, sent.pool))
        for window in of_pool:
            window.latency.add(max(0, at_ms - sent.at_ms))
        told = usage_in(event.output) if type(event) is events.StepSucceeded else None
        for window in (*of_pool, *self._at(state, at_ms, _flow_of(run), Label(run.namespace, NAMESPACE, ""))):
            setattr(window.counts, outcome, getattr(window.counts, outcome) + 1)
            if told is not None:
                window.usage.count(told)

    def _item_ended(self, state: State, event: events.ItemEnded) -> None:
        self._began.pop((event.run, event.item), None)
        item = state.runs[event.run].items.get(event.item)
        if item is not None and RUNNING in item.phases:
            for step in range(len(item.run.flow.steps)):
                self._sent.pop((event.run, event.item, step), None)

    def _run_ended(self, state: State, event: events.RunEnded, at_ms: int) -> None:
        run = state.runs[event.run]
        ending = _ENDINGS[event.status]
        for window in self._at(state, at_ms, _flow_of(run), Label(run.namespace, NAMESPACE, "")):
            setattr(window.counts, ending, getattr(window.counts, ending) + 1)
            window.latency.add(max(0, at_ms - run.created_ms))

    def _at(self, state: State, at_ms: int, *labels: Label) -> list[Window]:
        found = [self._windows.at(label, state.sequence + 1, at_ms) for label in labels]
        return [window for window in found if window is not None]

    def _ready_ms(self, item: Item, event: events.StepDispatched) -> int | None:
        if event.attempt > 1:
            return item.wait(event.step).due_ms or None
        began = self._began.get((event.run, event.item), 0)
        return max([began, *(item.times[(need << 1) + 1] for need in self._needs_of(item.run)[event.step])]) or None

    def _needs_of(self, run: Run) -> list[list[int]]:
        found = self._needs.get(run.flow_id)
        if found is None:
            steps = run.flow.steps
            found = [[] for _ in range(len(steps) + 1)]
            for need, dependents in enumerate(run.flow.dependents):
                for step in dependents:
                    found[step].append(need)
            self._needs[run.flow_id] = found
        return found

    def _pool_of(self, item: Item, step: CompiledStep) -> str:
        key = (step.component, step.pool)
        known = self._pools.get(key)
        if known is None:
            known = self._find_pool(item, step)
            if not self._router.looks_at_inputs:
                self._pools[key] = known
        return known

    def _find_pool(self, item: Item, step: CompiledStep) -> str:
        value = b"null"
        if self._router.looks_at_inputs:
            try:
                value = step.input.render(item)
            except (PlanFailed, PlanSkipped):
                pass  # a route changed since; the pool is that of no input
        route = self._router.route(step.component, value, step.pool)
        return route.pool if isinstance(route, Route) else UNROUTED


def _flow_of(run: Run) -> Label:
    return Label(run.namespace, FLOW, run.flow.name or run.flow_id)
