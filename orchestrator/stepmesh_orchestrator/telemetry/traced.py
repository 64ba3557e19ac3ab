"""Runs whose trace is recorded, as far as a span to come needs what later events do not say.

Invariant: only sampled runs are here, so what tracing costs and holds follows from the sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.tracecontext import TraceContext
from stepmesh_orchestrator.core.events import Parent
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.state import AWAITING, CHILD, SLEEPING, Item, Run
from stepmesh_orchestrator.telemetry.departures import attempt_began_ms


@dataclass(slots=True)
class TracedItem:
    """`attempts`: number of the present attempt of steps that were tried again. `waits`: since when (ms) and for what core steps wait.
    `ended_ns`: end of the span that ends last below it: workers' clocks count µs, the journal's ms."""

    began_ms: int
    ended_ns: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    waits: dict[int, tuple[int, str]] = field(default_factory=dict)


@dataclass(slots=True)
class TracedRun:
    """`parent_id`: span id of what started the run; None at the top of its trace."""

    id: RunId
    root: RunId
    trace_id: int
    traceparent: str
    flow: CompiledFlow
    total: int
    created_ms: int
    parent: Parent | None
    parent_id: int | None = None
    ended_ns: int = 0
    items: dict[int, TracedItem] = field(default_factory=dict)


SLEEP, SUB_RUN, OUTSIDE = "sleep", "sub_run", "outside"
_WAITS = {SLEEPING: SLEEP, CHILD: SUB_RUN, AWAITING: OUTSIDE}


def context_of(traceparent: str, root: RunId, ratio: float) -> TraceContext:
    """The trace of a run: as given, else as its root's id says."""
    return tracecontext.parse(traceparent) or tracecontext.trace_of(root, ratio)


def parent_span(run: TracedRun, owner: TracedRun | None) -> int | None:
    """A sub-run hangs on the attempt that started it, or on the worker's span where the worker told it (another traceparent than the
    owner's own). Any other run hangs on what its submitter told, which is the run itself where the trace begins with it."""
    given = tracecontext.parse(run.traceparent)
    parent = run.parent
    if parent is None:
        return None if given is None or given.span_id == tracecontext.run_span(run.id) else given.span_id
    if parent.kind == "worker" and given is not None and owner is not None and owner.traceparent != run.traceparent:
        return given.span_id
    item = None if owner is None else owner.items.get(parent.item)
    attempt = 1 if item is None else item.attempts.get(parent.step, 1)
    return tracecontext.attempt_span(parent.run, parent.item, parent.step, attempt)


def traced_item(item: Item) -> TracedItem:
    """An item as a recovery found it. When it began is not in the state: with its first step, as far as that is known."""
    began = min((at for at in item.times if at), default=item.run.created_ms)
    traced = TracedItem(began)
    for step, phase in enumerate(item.phases[:-1]):
        if item.attempt(step) > 1:
            traced.attempts[step] = item.attempt(step)
        if phase in _WAITS:
            traced.waits[step] = (attempt_began_ms(item, step), _WAITS[phase])
    return traced


def traced_run(run: Run, trace_id: int) -> TracedRun:
    """A run as a recovery found it; its parent span is still open."""
    traced = TracedRun(run.id, run.tree.root, trace_id, run.traceparent, run.flow, run.total, run.created_ms, run.parent)
    traced.items = {index: traced_item(item) for index, item in run.items.items()}
    return traced
