"""OpenTelemetry for workers and clients: a span per execution and per submission, in one trace with the orchestrator's.

Invariant: ids of parents come from the task's own fields, so no message beyond the task is needed. While a component runs its execution
span is the current one, so the user's own spans nest below it. Payloads are never recorded.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.context import attach
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode

from stepmesh.context import Context
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Result, Submit
from stepmesh_broker.protocol.tracecontext import TraceContext
from stepmesh_broker.telemetry.pipeline import Pipeline
from stepmesh_broker.telemetry.sink import Period, link_to, remote


class OtelInstrument:
    """See `instrument.Instrument` and `instrument.SubmitInstrument`. `provider` makes the execution spans; to have the user's own spans
    exported with them, make it the global one (`trace.set_tracer_provider`)."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._ratio = pipeline.settings.sampling
        self.provider = TracerProvider(ParentBased(TraceIdRatioBased(self._ratio)), pipeline.resource, shutdown_on_exit=False)
        for processor in pipeline.processors:
            self.provider.add_span_processor(processor)
        self._pipeline = pipeline
        self._tracer = self.provider.get_tracer(names.SCOPE)

    def start(self, context: Context) -> object:
        """The execution span, current from here on; None where the trace is not sampled."""
        dropped = _not_sampled(context.traceparent)
        if dropped is not None:
            attach(dropped)
            return None
        run, item, step, attempt = context.run_id, context.item, context.step_index, context.attempt
        known = tracecontext.parse(context.traceparent) or tracecontext.trace_of(context.root_run_id, self._ratio)
        parent = TraceContext(known.trace_id, tracecontext.attempt_span(run, item, step, attempt), known.sampled)
        above = trace.set_span_in_context(NonRecordingSpan(remote(parent)), OtelContext())
        if not known.sampled:
            context.traceparent = parent.header
            attach(above)
            return None
        span = self._tracer.start_span(f"execute {context.component}", above, SpanKind.CONSUMER, _about(context))
        attach(trace.set_span_in_context(span, above))
        made = span.get_span_context()
        context.traceparent = TraceContext(made.trace_id, made.span_id, made.trace_flags.sampled).header
        return span

    def finish(self, token: object, result: Result | None) -> None:
        """End the span. `token`: what `start` gave; None also when the attempt ended before it."""
        if not isinstance(token, Span):
            return
        failure = None if result is None else result.failure
        if failure is not None:
            token.set_status(Status(StatusCode.ERROR, failure.message))
            token.set_attribute(names.ERROR_TYPE, ErrorCode(failure.code).name)
        outcome = "dropped" if result is None else "success" if failure is None else "failed"
        token.set_attribute(names.OUTCOME, outcome)
        token.end()

    async def submit(self, request: Submit, send: Callable[[Submit], Awaitable[Accepted]]) -> Accepted:
        """A span around the submission: in the caller's trace if there is one, else at the top of the run's own."""
        current = trace.get_current_span().get_span_context()
        above = TraceContext(current.trace_id, current.span_id, current.trace_flags.sampled) if current.is_valid else None
        known = above or tracecontext.trace_of(request.run, self._ratio)
        own = TraceContext(known.trace_id, tracecontext.submit_span(request.run), known.sampled)
        start_ns = time.time_ns()
        try:
            accepted = await send(msgspec.structs.replace(request, traceparent=own.header))
        except BaseException as problem:
            self._submitted(request, problem, own, above, start_ns)
            raise
        self._submitted(request, accepted, own, above, start_ns)
        return accepted

    def flush(self) -> None:
        """Export what is queued, now. Blocks."""
        self._pipeline.flush()

    def close(self) -> None:
        """Export what is queued, then end. Blocks, at most as long as the receiver's timeout."""
        self._pipeline.close()

    def _submitted(
        self, request: Submit, end: Accepted | BaseException, own: TraceContext, above: TraceContext | None, start_ns: int
    ) -> None:
        if not own.sampled:
            return
        problem = end if isinstance(end, BaseException) else None
        run = end.run if isinstance(end, Accepted) else request.run
        links: list[Link] = []
        if run != request.run:
            links.append(link_to(tracecontext.trace_of(run, self._ratio).trace_id, tracecontext.run_span(run), "existing_run"))
        values: dict[str, str | int | bool] = {
            names.KIND: "submit", names.NAMESPACE: request.namespace, names.RUN_ID: run, names.FLOW_ID: request.flow,
            names.MESSAGE_COUNT: len(request.inputs), names.MESSAGING_SYSTEM: names.SYSTEM, names.OPERATION_NAME: "submit",
            names.OPERATION_TYPE: "send", names.RUN_EXISTING: isinstance(end, Accepted) and end.existing,
        }  # fmt: skip
        if problem is not None:
            values[names.ERROR_TYPE] = type(problem).__name__
        self._pipeline.sink.emit(
            "submit",
            own.trace_id,
            own.span_id,
            None if above is None else above.span_id,
            Period(start_ns, time.time_ns()),
            values,
            kind=SpanKind.PRODUCER,
            error=None if problem is None else str(problem) or type(problem).__name__,
            links=links,
        )


@lru_cache(maxsize=256)
def _not_sampled(traceparent: str) -> OtelContext | None:
    """What makes the user's spans follow a trace that is not sampled; None for any other. All tasks of a run share one traceparent."""
    known = tracecontext.parse(traceparent)
    return None if known is None or known.sampled else trace.set_span_in_context(NonRecordingSpan(remote(known)), OtelContext())


def _about(context: Context) -> dict[str, str | int]:
    return {
        names.KIND: "execute", names.RUN_ID: context.run_id, names.ITEM: context.item, names.STEP_INDEX: context.step_index,
        names.STEP_ID: context.step_id, names.COMPONENT: context.component, names.ATTEMPT: context.attempt,
        names.MESSAGING_SYSTEM: names.SYSTEM, names.OPERATION_NAME: "execute", names.OPERATION_TYPE: "process",
        names.DESTINATION: context.pool, names.CONSUMER_GROUP: context.pool,
    }  # fmt: skip


def share(instrument: OtelInstrument) -> None:
    """Make its provider the process's, so that the user's own spans are exported with ours; unless the process has one already."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(instrument.provider)
