"""Events of durable turns → finished spans: run, item, attempt and queue wait.

A span is made when what it covers ends, with the journal's times and ids that follow from names (protocol/tracecontext.py). So nothing
is kept open, a restart changes no id, and a replay, which no observer sees, makes no span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_broker.telemetry.sink import Period, SpanSink, link_to
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.evolve.dormancy import restore
from stepmesh_orchestrator.core.session import Flows
from stepmesh_orchestrator.core.state import Run, State
from stepmesh_orchestrator.telemetry.departures import Departed, Landed
from stepmesh_orchestrator.telemetry.digest import Digest
from stepmesh_orchestrator.telemetry.observer import TurnRecord
from stepmesh_orchestrator.telemetry.traced import (
    OUTSIDE,
    SLEEP,
    SUB_RUN,
    TracedItem,
    TracedRun,
    context_of,
    parent_span,
    traced_run,
)

_MS = 1_000_000
Values = dict[str, str | bool | int | float]


class TurnTracer:
    """Of one shard."""

    def __init__(self, sink: SpanSink, ratio: float, namespace: Namespace, partition: Partition, flows: Flows) -> None:
        self._sink = sink
        self._ratio = ratio
        self._flows = flows
        self._partition = partition
        self._about: Values = {names.NAMESPACE: namespace, names.PARTITION: partition}
        self._runs: dict[RunId, TracedRun] = {}
        self._at_ms = 0
        self._digest = Digest({})
        self._handlers: dict[type, Callable[[TracedRun, Any], None]] = {
            events.ItemStarted: self._item_started,
            events.StepSucceeded: self._succeeded,
            events.StepFailed: self._failed,
            events.StepDefaulted: self._defaulted,
            events.StepRetrying: self._retrying,
            events.StepSleeping: self._sleeping,
            events.StepAwaiting: self._awaiting,
            events.ItemEnded: self._item_ended,
            events.RunEnded: self._run_ended,
            events.TreeDormant: self._tree_dormant,
        }

    def adopt(self, state: State) -> None:
        """What a recovery found."""
        self._adopt(state.runs.values())

    def _adopt(self, runs: Iterable[Run]) -> None:
        found: list[TracedRun] = []
        for run in runs:
            context = context_of(run.traceparent, run.tree.root, self._ratio)
            if context.sampled:
                self._runs[run.id] = traced_run(run, context.trace_id)
                found.append(self._runs[run.id])
        for traced in found:
            traced.parent_id = parent_span(traced, self._owner(traced))

    def _tree_dormant(self, run: TracedRun, event: events.TreeDormant) -> None:
        for left in (event.run, *event.others):
            self._runs.pop(left, None)

    def _tree_woken(self, event: events.TreeWoken) -> None:
        """As its image says: what follows in the turn may have moved it on, or ended it. Its flows can be gone by now, as of any run."""
        asleep = State(self._partition)
        with suppress(LookupError):
            self._adopt(restore(asleep, event.run, event.image, self._flows))

    def turn(self, record: TurnRecord, digest: Digest) -> None:
        """Make the spans of what ended."""
        self._at_ms, self._digest = record.at_ms, digest
        runs, handlers = self._runs, self._handlers
        if not runs and not digest.created:
            return
        for event in record.events:
            run = runs.get(event.run)
            if run is not None:
                handler = handlers.get(type(event))
                if handler is not None:
                    handler(run, event)
            elif type(event) is events.RunCreated:
                self._run_created(event)
            elif type(event) is events.TreeWoken:
                self._tree_woken(event)

    def _owner(self, run: TracedRun) -> TracedRun | None:
        return None if run.parent is None else self._runs.get(run.parent.run)

    def _run_created(self, event: events.RunCreated) -> None:
        context = context_of(event.traceparent, event.root, self._ratio)
        flow = self._flows.get(event.flow, event.overrides) if context.sampled else None
        if flow is None:
            return
        run = TracedRun(
            event.run, event.root, context.trace_id, event.traceparent, flow, len(event.inputs), self._at_ms, event.parent
        )  # fmt: skip
        owner = self._owner(run)
        run.parent_id = parent_span(run, owner)
        self._runs[event.run] = run
        if owner is not None and event.parent is not None and event.parent.kind != "worker":
            item = owner.items.get(event.parent.item)
            if item is not None:
                item.waits.setdefault(event.parent.step, (self._at_ms, SUB_RUN))

    def _item_started(self, run: TracedRun, event: events.ItemStarted) -> None:
        run.items[event.item] = TracedItem(self._at_ms)

    def _sleeping(self, run: TracedRun, event: events.StepSleeping) -> None:
        self._item(run, event.item).waits.setdefault(event.step, (self._at_ms, SLEEP))

    def _awaiting(self, run: TracedRun, event: events.StepAwaiting) -> None:
        self._item(run, event.item).waits.setdefault(event.step, (self._at_ms, OUTSIDE))

    def _succeeded(self, run: TracedRun, event: events.StepSucceeded) -> None:
        self._attempt(run, event.item, event.step, "success", None)

    def _failed(self, run: TracedRun, event: events.StepFailed) -> None:
        if not event.inherited:
            self._attempt(run, event.item, event.step, "failed", event.failure)

    def _defaulted(self, run: TracedRun, event: events.StepDefaulted) -> None:
        self._attempt(run, event.item, event.step, "defaulted", event.failure)

    def _retrying(self, run: TracedRun, event: events.StepRetrying) -> None:
        item = self._item(run, event.item)
        item.attempts[event.step] = event.attempt
        self._attempt(run, event.item, event.step, "retrying", event.failure)
        item.attempts[event.step] = event.attempt + 1

    def _item(self, run: TracedRun, index: int) -> TracedItem:
        item = run.items.get(index)
        if item is None:
            item = run.items[index] = TracedItem(self._at_ms)
        return item

    def _attempt(self, run: TracedRun, index: int, step: int, outcome: str, failure: Failure | None) -> None:
        """The span of an attempt that ended: of a task, of a core step that waited, or of one that took no time."""
        item = self._item(run, index)
        number = item.attempts.get(step, 1)
        landed = self._digest.landed.get((run.id, index, step))
        began_ms, wait = item.waits.pop(step, (self._at_ms, ""))
        values = self._step_values(run, index, step, number, outcome)
        start_ns, end_ns = began_ms * _MS, self._at_ms * _MS
        if landed is not None:
            start_ns = landed.departed.at_ms * _MS
            end_ns = max(end_ns, self._task(run, index, step, landed, values))
        elif wait:
            values[names.WAIT] = wait
            end_ns = max(end_ns, item.ended_ns)
        self._emit_attempt(run, index, step, number, Period(start_ns, end_ns), values, failure)

    def _task(self, run: TracedRun, index: int, step: int, landed: Landed, values: Values) -> int:
        """Say where the attempt ran, and make the span of its queue wait. When its execution ended, ns."""
        departed, result, worker = landed
        values |= {names.POOL: departed.pool, names.COMPONENT: departed.component}
        if result is None:
            return 0
        values[names.WORKER] = worker
        start_ns = departed.at_ms * _MS
        begun_ns = max(start_ns, result.started_us * 1000)
        values_of_wait = self._queue_values(run, index, step, departed, worker)
        self._sink.emit(
            f"queue {departed.pool}",
            run.trace_id,
            tracecontext.queue_span(run.id, index, step, departed.attempt),
            tracecontext.attempt_span(run.id, index, step, departed.attempt),
            Period(start_ns, begun_ns),
            values_of_wait,
        )
        return begun_ns + result.duration_us * 1000

    def _emit_attempt(
        self, run: TracedRun, index: int, step: int, number: int, period: Period, values: Values, failure: Failure | None
    ) -> None:
        item = self._item(run, index)
        item.ended_ns = max(item.ended_ns, period.end_ns)
        links = []
        if number > 1:
            links.append(link_to(run.trace_id, tracecontext.attempt_span(run.id, index, step, number - 1), "previous_attempt"))
        self._sink.emit(
            f"step {run.flow.steps[step].id}",
            run.trace_id,
            tracecontext.attempt_span(run.id, index, step, number),
            tracecontext.item_span(run.id, index),
            period,
            values | _error(failure),
            error=None if failure is None else failure.message,
            links=links,
        )

    def _item_ended(self, run: TracedRun, event: events.ItemEnded) -> None:
        index = event.item
        for step, departed in self._digest.abandoned.get((run.id, index), {}).items():
            self._abandoned(run, index, step, departed)
        item = self._item(run, index)
        for step, (began_ms, wait) in item.waits.items():
            number = item.attempts.get(step, 1)
            values = self._step_values(run, index, step, number, "cancelled") | {names.WAIT: wait}
            self._emit_attempt(run, index, step, number, Period(began_ms * _MS, self._at_ms * _MS), values, None)
        end_ns = max(item.ended_ns, self._at_ms * _MS)
        run.ended_ns = max(run.ended_ns, end_ns)
        del run.items[index]
        failure = event.failure
        values = {names.KIND: "item", names.RUN_ID: run.id, names.ITEM: index, names.OUTCOME: "success" if failure is None else "failed"}
        if failure is not None and failure.code == ErrorCode.CANCELLED:
            values[names.OUTCOME] = "cancelled"
        self._sink.emit(
            "item",
            run.trace_id,
            tracecontext.item_span(run.id, index),
            tracecontext.run_span(run.id),
            Period(item.began_ms * _MS, end_ns),
            values | _error(failure),
            error=None if failure is None else failure.message,
        )

    def _abandoned(self, run: TracedRun, index: int, step: int, departed: Departed) -> None:
        values = self._step_values(run, index, step, departed.attempt, "cancelled")
        values |= {names.POOL: departed.pool, names.COMPONENT: departed.component}
        self._emit_attempt(run, index, step, departed.attempt, Period(departed.at_ms * _MS, self._at_ms * _MS), values, None)

    def _run_ended(self, run: TracedRun, event: events.RunEnded) -> None:
        del self._runs[run.id]
        end_ns = max(run.ended_ns, self._at_ms * _MS)
        values: Values = self._about | {
            names.KIND: "run", names.RUN_ID: run.id, names.ROOT_RUN_ID: run.root, names.FLOW_ID: run.flow.id,
            names.FLOW_NAME: run.flow.name, names.RUN_ITEMS: run.total, names.RUN_STATUS: event.status,
        }  # fmt: skip
        links = []
        if run.parent is not None:
            values[names.PARENT_RUN_ID] = run.parent.run
            owner = self._owner(run)
            item = None if owner is None else owner.items.get(run.parent.item)
            if item is not None:
                item.ended_ns = max(item.ended_ns, end_ns)
            links.append(link_to(run.trace_id, tracecontext.run_span(run.parent.run), "parent_run"))
        self._sink.emit(
            f"run {run.flow.name}",
            run.trace_id,
            tracecontext.run_span(run.id),
            run.parent_id,
            Period(run.created_ms * _MS, end_ns),
            values,
            error="an item of the run failed" if event.status == "failed" else None,
            links=links,
        )

    def _step_values(self, run: TracedRun, index: int, step: int, number: int, outcome: str) -> Values:
        compiled = run.flow.steps[step]
        return {
            names.KIND: "attempt", names.RUN_ID: run.id, names.ITEM: index, names.STEP_INDEX: step, names.STEP_ID: compiled.id,
            names.COMPONENT: compiled.component, names.ATTEMPT: number, names.OUTCOME: outcome,
        }  # fmt: skip

    def _queue_values(self, run: TracedRun, index: int, step: int, departed: Departed, worker: str) -> Values:
        return {
            names.KIND: "queue", names.RUN_ID: run.id, names.ITEM: index, names.STEP_ID: run.flow.steps[step].id,
            names.ATTEMPT: departed.attempt, names.MESSAGING_SYSTEM: names.SYSTEM, names.OPERATION_NAME: "queue",
            names.OPERATION_TYPE: "receive", names.DESTINATION: departed.pool, names.CONSUMER_GROUP: departed.pool, names.WORKER: worker,
        }  # fmt: skip


def _error(failure: Failure | None) -> Values:
    return {} if failure is None else {names.ERROR_TYPE: ErrorCode(failure.code).name}
