"""One process's exporters, made from settings. OpenTelemetry is imported when a pipeline is opened, never before.

Invariant: nothing here is global but what the caller makes global; `close` flushes what is queued.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    from stepmesh_broker.telemetry.sink import SpanSink

QUEUED_SPANS = 65_536
"""Spans that wait for their export at most; a busy shard makes thousands in one turn, and the library's 2,048 would drop them."""
EXPORT_SPANS = 2_048
"""Spans of one export at most."""
DELAY_MS = 1_000
"""How long spans gather before they are exported: what a killed process loses."""
EXPORT_TIMEOUT_S = 3.0
"""How long one export is tried, unless OTEL_EXPORTER_OTLP_TIMEOUT says it: a receiver that is away delays the end of a process by that."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`metrics`: None when no receiver is named."""

    settings: TelemetrySettings
    resource: Resource
    processors: tuple[BatchSpanProcessor, ...]
    metrics: MetricExporter | None

    @property
    def sink(self) -> SpanSink:
        """For spans made after the fact."""
        from stepmesh_broker.telemetry.sink import SpanSink

        return SpanSink(self.resource, self.processors)

    def flush(self) -> None:
        """Export what is queued, now."""
        for processor in self.processors:
            processor.force_flush()

    def close(self) -> None:
        """Export what is queued, then end. May take as long as the receiver's timeout."""
        for processor in self.processors:
            processor.shutdown()  # type: ignore[no-untyped-call]  # the library left it untyped


def open_pipeline(settings: TelemetrySettings, service: str, instance: str = "") -> Pipeline:
    """Raises `StepmeshError` SM-0121 when the OpenTelemetry packages are not installed."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporters = _span_exporters(settings)
        metrics = _metric_exporter(settings)
    except ImportError as problem:
        raise missing(problem) from problem
    about = {names.SERVICE_VERSION: _version()} | ({names.SERVICE_INSTANCE: instance} if instance else {})
    resource = Resource({names.SERVICE_NAME: settings.service_name or service, **about}).merge(_from_environment())
    processors = tuple(
        BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS, schedule_delay_millis=DELAY_MS, max_export_batch_size=EXPORT_SPANS)
        for exporter in exporters
    )
    return Pipeline(settings, resource, processors, metrics)


def missing(problem: ImportError) -> StepmeshError:
    """SM-0121: telemetry is asked for and its packages are not there."""
    return StepmeshError(
        f"telemetry is configured, but {problem.name} is not installed", code="SM-0121", hint="pip install 'stepmesh[otel]'"
    )


def _span_exporters(settings: TelemetrySettings) -> list[SpanExporter]:
    exporters: list[SpanExporter] = []
    if settings.traces_url:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter(endpoint=settings.traces_url, headers=_headers(settings), timeout=_timeout_s()))
    if settings.trace_file:
        from stepmesh_broker.telemetry.file_exporter import FileSpanExporter

        exporters.append(FileSpanExporter(settings.trace_file))
    return exporters


def _metric_exporter(settings: TelemetrySettings) -> MetricExporter | None:
    if not settings.metrics_url:
        return None
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(endpoint=settings.metrics_url, headers=_headers(settings), timeout=_timeout_s())


def _timeout_s() -> float | None:
    """None: the exporter reads the variable itself."""
    return None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else EXPORT_TIMEOUT_S


def _headers(settings: TelemetrySettings) -> dict[str, str] | None:
    """None: the exporter reads OTEL_EXPORTER_OTLP_HEADERS itself."""
    return dict(settings.headers) or None


def _from_environment() -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our defaults; the library's own `unknown_service` does not."""
    from opentelemetry.sdk.resources import OTELResourceDetector

    return OTELResourceDetector().detect()


def _version() -> str:
    try:
        return version("stepmesh")
    except PackageNotFoundError:
        return "source"
