"""Histograms filled per task: buckets, sums, and their place among the library's metrics."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from stepmesh_broker.protocol import attributes as names
from stepmesh_orchestrator.telemetry.distributions import BOUNDS_S, Distribution, WithDistributions

KEY = ("cpu", "/c")


class Kept(MetricExporter):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[MetricsData] = []
        self.calls: list[str] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.sent.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        self.calls.append("flush")
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self.calls.append("shutdown")


def point(distribution: Distribution) -> Any:
    metric = distribution.metric(2)
    assert metric is not None
    (one,) = metric.data.data_points
    return one


def test_before_the_first_observation_there_is_nothing() -> None:
    assert Distribution(names.TASK_DURATION).metric(1) is None


@pytest.mark.parametrize("value", [0.0, 0.0005, 0.001, 0.0010001, 0.3, 3_600.0, 3_600.1, 1e9])
def test_a_value_falls_where_the_library_puts_it(value: float) -> None:
    ours = Distribution(names.TASK_DURATION)
    ours.add([(KEY, value)])
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("m")
    meter.create_histogram("h", explicit_bucket_boundaries_advisory=BOUNDS_S).record(value)
    data = reader.get_metrics_data()
    assert data is not None
    (theirs,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert tuple(point(ours).bucket_counts) == tuple(theirs.bucket_counts)  # type: ignore[union-attr]  # a histogram's point
    assert tuple(point(ours).explicit_bounds) == tuple(theirs.explicit_bounds)  # type: ignore[union-attr]  # as above


def test_a_point_sums_up_its_series() -> None:
    distribution = Distribution(names.TASK_DURATION)
    distribution.add([(KEY, 0.5), (KEY, 1.5)])
    distribution.add([(KEY, 0.25)])
    one = point(distribution)
    assert (one.count, one.sum, one.min, one.max) == (3, 2.25, 0.25, 1.5)
    assert one.attributes == {names.POOL: "cpu", names.COMPONENT: "/c"}


def test_series_are_kept_apart() -> None:
    distribution = Distribution(names.TASK_DURATION)
    distribution.add([(KEY, 0.5), (("gpu", "/c"), 1.5)])
    metric = distribution.metric(1)
    assert metric is not None
    assert [(one.attributes[names.POOL], one.count) for one in metric.data.data_points] == [("cpu", 1), ("gpu", 1)]  # type: ignore[index,union-attr]


def test_it_joins_what_the_library_collected_under_one_resource() -> None:
    kept, resource = Kept(), Resource({"a": "b"})
    reader = InMemoryMetricReader()
    MeterProvider([reader], resource, shutdown_on_exit=False).get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    distribution = Distribution(names.TASK_DURATION)
    joined = WithDistributions(kept, (distribution,), resource)
    joined.export(data)
    distribution.add([(KEY, 0.5)])
    joined.export(data)
    before, after = kept.sent
    assert before is data, "nothing to add"
    assert [metric.name for scope in after.resource_metrics[0].scope_metrics for metric in scope.metrics] == ["c", names.TASK_DURATION.name]
    assert len(after.resource_metrics) == 1


def test_flush_and_shutdown_reach_the_exporter() -> None:
    kept = Kept()
    joined = WithDistributions(kept, (), Resource({}))
    assert joined.force_flush()
    joined.shutdown()
    assert kept.calls == ["flush", "shutdown"]
