"""OpenTelemetry's spans into the span file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.resources import SERVICE_NAME
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id
from opentelemetry.util.types import Attributes

from stepmesh_broker.telemetry.span_file import AttributeValue, SpanLink, SpanRecord, append

log = logging.getLogger("stepmesh.telemetry")


class FileSpanExporter(SpanExporter):
    """Appends finished spans to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Spans that cannot be written are lost; the log says so."""
        try:
            append(self._path, map(record, spans))
        except OSError as problem:
            log.error("%d spans were not written to %s: %s", len(spans), self._path, problem)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def record(span: ReadableSpan) -> SpanRecord:
    """A span as the file keeps it."""
    context = span.get_span_context()
    assert context is not None  # a finished span has one
    links = [
        SpanLink(format_trace_id(link.context.trace_id), format_span_id(link.context.span_id), _values(link.attributes))
        for link in span.links
    ]
    return SpanRecord(
        format_trace_id(context.trace_id),
        format_span_id(context.span_id),
        "" if span.parent is None else format_span_id(span.parent.span_id),
        span.name,
        span.kind.name.lower(),
        span.start_time or 0,
        span.end_time or 0,
        str(span.resource.attributes.get(SERVICE_NAME, "")),
        span.status.status_code.name.lower(),
        span.status.description or "",
        _values(span.attributes),
        links,
    )


def _values(attributes: Attributes) -> dict[str, AttributeValue]:
    return {
        name: value if isinstance(value, (str, bool, int, float)) else [str(one) for one in value or ()]
        for name, value in (attributes or {}).items()
    }
