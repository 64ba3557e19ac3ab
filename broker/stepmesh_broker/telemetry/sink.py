"""Finished spans made after the fact, with the ids and times that the caller knows, and their way to the exporters.

Why not a tracer: `Tracer.start_span` takes no span id, and costs six times as much (docs/adr/0003). `ReadableSpan` is the value that
exporters take. Invariant: `emit` neither waits nor raises for a receiver that is away; a full queue drops spans and says so in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.tracecontext import TraceContext

Attributes = Mapping[str, str | bool | int | float]
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope(names.SCOPE)
_UNSET = Status(StatusCode.UNSET)


class Period(NamedTuple):
    """Start and end, ns since 1970."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class SpanSink:
    """`processors` get each span at its end."""

    resource: Resource
    processors: Sequence[SpanProcessor]

    def emit(
        self,
        name: str,
        trace_id: int,
        span_id: int,
        parent_id: int | None,
        period: Period,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        """One finished, sampled span. `error`: why it failed; None when it did not."""
        span = ReadableSpan(
            name,
            SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED),
            None if parent_id is None else SpanContext(trace_id, parent_id, is_remote=True, trace_flags=_SAMPLED),
            self.resource,
            attributes,
            (),
            links,
            kind,
            None,
            _UNSET if error is None else Status(StatusCode.ERROR, error),
            period.start_ns,
            max(period.start_ns, period.end_ns),
            _SCOPE,
        )
        for processor in self.processors:
            processor.on_end(span)


def link_to(trace_id: int, span_id: int, what: str) -> Link:
    """A link to another span of ours. `what`: a value of the attribute `stepmesh.link`."""
    return Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=_SAMPLED), {names.LINK: what})


def remote(context: TraceContext) -> SpanContext:
    """A span of another process, as OpenTelemetry's API wants it."""
    flags = _SAMPLED if context.sampled else TraceFlags(TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags)
