"""Histograms that are filled per task: an observation costs a bisection and two additions, a tenth of the library's `record`
(docs/adr/0003). They join the library's metrics on their way to the exporter, as cumulative points.

Invariant: filled by the event loop, read by the exporter's thread, under a lock that the filler takes once per turn.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from stepmesh_broker.protocol import attributes as names

_SCOPE = InstrumentationScope(f"{names.SCOPE}.tasks")
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
"""Upper bounds of the buckets, seconds: from a quick function to an hour of GPU work."""


@dataclass(slots=True)
class Series:
    """One set of attribute values. `counts` has one bucket more than there are bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0
    least_s: float = float("inf")
    most_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more observation."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds
        self.least_s = min(self.least_s, seconds)
        self.most_s = max(self.most_s, seconds)


class Distribution:
    """One histogram; the key of a series holds the values of `about.by`, in its order."""

    def __init__(self, about: names.Metric) -> None:
        self.about = about
        self._lock = Lock()
        self._series: dict[tuple[str, ...], Series] = {}
        self._since_ns = time.time_ns()

    def add(self, observations: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """(key, seconds) of a turn."""
        with self._lock:
            for key, seconds in observations:
                series = self._series.get(key)
                if series is None:
                    series = self._series[key] = Series()
                series.add(seconds)

    def metric(self, now_ns: int) -> Metric | None:
        """For an exporter; None before the first observation."""
        with self._lock:
            points = [self._point(key, series, now_ns) for key, series in self._series.items()]
        if not points:
            return None
        about = self.about
        return Metric(about.name, about.meaning, about.unit, Histogram(points, AggregationTemporality.CUMULATIVE))

    def _point(self, key: tuple[str, ...], series: Series, now_ns: int) -> HistogramDataPoint:
        attributes = dict(zip(self.about.by, key, strict=True))
        counts = tuple(series.counts)
        return HistogramDataPoint(
            attributes, self._since_ns, now_ns, sum(counts), series.total_s, counts, BOUNDS_S, series.least_s, series.most_s
        )


class WithDistributions(MetricExporter):
    """An exporter that sends distributions along with what the library collected."""

    def __init__(self, inner: MetricExporter, distributions: tuple[Distribution, ...], resource: Resource) -> None:
        super().__init__()
        self._inner = inner
        self._distributions = distributions
        self._resource = resource

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        """Both, in one request."""
        now_ns = time.time_ns()
        ours = [metric for one in self._distributions if (metric := one.metric(now_ns)) is not None]
        if ours:
            metrics_data = self._joined(metrics_data, ScopeMetrics(_SCOPE, ours, ""))
        return self._inner.export(metrics_data, timeout_millis, **kwargs)

    def _joined(self, collected: MetricsData, ours: ScopeMetrics) -> MetricsData:
        """Under the one resource that there is: the OTLP encoder keeps one entry per resource and scope."""
        scopes = [scope for resource in collected.resource_metrics for scope in resource.scope_metrics]
        return MetricsData([ResourceMetrics(self._resource, [*scopes, ours], "")])

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """The inner exporter's."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """The inner exporter's."""
        self._inner.shutdown(timeout_millis, **kwargs)
