"""Counters of what goes wrong, by pool; gauges from readings; and that a defect in telemetry does not reach the shard."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, ParentRef, Submit, Task
from stepmesh_broker.protocol.tracecontext import parse, trace_of
from stepmesh_orchestrator.core.events import Event, RunEnded, StepDefaulted, StepFailed, StepRetrying
from stepmesh_orchestrator.telemetry.metrics import Metrics
from stepmesh_orchestrator.telemetry.observer import PoolReading, ShardReading, TurnRecord
from stepmesh_orchestrator.telemetry.setup import Observer, start

RUN = RunId("0192a000-0000-7000-8000-000000000001")
ZERO = Partition(0)


class Kept(MetricExporter):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        for resource in metrics_data.resource_metrics:
            self.found |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to end."""

    def values(self, metric: names.Metric) -> dict[tuple[Any, ...], Any]:
        """Attribute values in the order of `metric.by` → value."""
        points = self.found[metric.name].data.data_points if metric.name in self.found else []
        return {tuple(point.attributes.get(name) for name in metric.by): point.value for point in points}


def metered() -> tuple[Kept, Metrics, Observer]:
    kept = Kept()
    metrics = Metrics(kept, Resource({}), 3_600)
    return kept, metrics, Observer(ZERO, 1.0, None, metrics)


def record(*events: Event, tasks: dict[str, list[Task]] | None = None) -> TurnRecord:
    return TurnRecord(1_000, list(events), tasks or {}, [], 100, 0.001)


def failure(code: ErrorCode) -> Failure:
    return Failure(code, "why")


def task(step: int) -> Task:
    return Task(RUN, 0, step, 1, 1, "s", "/c", b"null")


def test_retries_failures_and_parked_tasks_by_pool() -> None:
    kept, metrics, observer = metered()
    observer.turn(record(tasks={"gpu": [task(0), task(1), task(2), task(3)]}))
    observer.turn(
        record(
            StepRetrying(RUN, 0, 0, 1, failure(ErrorCode.UNREACHABLE), 2_000, True),
            StepFailed(RUN, 0, 1, failure(ErrorCode.UNREACHABLE)),
            StepDefaulted(RUN, 0, 2, b"1", failure(ErrorCode.COMPONENT_FAILED)),
            StepFailed(RUN, 0, 3, failure(ErrorCode.COMPONENT_FAILED), True),
            RunEnded(RUN, "failed"),
        )
    )
    metrics.flush()
    assert kept.values(names.TASK_RETRIES) == {("gpu", "transport", "UNREACHABLE"): 1}
    assert kept.values(names.TASK_FAILURES) == {("gpu", "UNREACHABLE"): 1, ("gpu", "COMPONENT_FAILED"): 1}, "not the inherited one"
    assert kept.values(names.TASK_PARKED) == {("gpu",): 1}
    assert kept.values(names.RUNS_ENDED) == {(0, "failed"): 1}
    metrics.close()


def test_a_failure_that_went_to_no_pool_is_told_as_unknown() -> None:
    kept, metrics, observer = metered()
    observer.turn(record(StepFailed(RUN, 0, 0, failure(ErrorCode.INVALID_INPUT))))
    metrics.flush()
    assert kept.values(names.TASK_FAILURES) == {("unknown", "INVALID_INPUT"): 1}
    metrics.close()


def test_gauges_show_the_latest_readings_of_every_shard() -> None:
    kept, metrics, _ = metered()
    for queued in (9, 4):
        pools = {"cpu": PoolReading(queued, 2, 1.5)}
        metrics.read([ShardReading(Partition(one), pools, 1, 2, 3, 4, 5, 6, 7, 8, 9) for one in (0, 1)])
    metrics.flush()
    assert kept.values(names.POOL_TASKS) == {
        ("cpu", 0, "queued"): 4, ("cpu", 0, "claimed"): 2, ("cpu", 1, "queued"): 4, ("cpu", 1, "claimed"): 2,
    }  # fmt: skip
    assert kept.values(names.POOL_WANTED) == {("cpu", 0): 6, ("cpu", 1): 6}
    assert kept.values(names.POOL_OLDEST) == {("cpu", 0): 1.5, ("cpu", 1): 1.5}
    metrics.read([ShardReading(Partition(0), {"gpu": PoolReading(1, 0, 0.1)}, 1, 2, 3, 4, 5, 6, 7, 8, 9)])
    metrics.flush()
    assert kept.values(names.POOL_WANTED) == {("cpu", 0): 0, ("gpu", 0): 1}, "idle is told; a shard that left is not"
    metrics.read([ShardReading(Partition(one), {}, 1, 2, 3, 4, 5, 6, 7, 8, 9) for one in (0, 1)])
    metrics.flush()
    by_metric = [kept.values(metric)[0,] for metric in (names.RUNS_LIVE, names.INBOX_MESSAGES, names.OUTBOX_FRAMES, names.PROJECTION_ROWS)]
    assert by_metric == [1, 2, 3, 4]
    counters = (names.TASKS_PUBLISHED, names.REDISPATCHED, names.STALE_RESULTS, names.MALFORMED, names.QUARANTINED)
    assert [kept.values(metric)[0,] for metric in counters] == [5, 6, 7, 8, 9]
    metrics.close()


def test_a_defect_in_telemetry_is_logged_once_and_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    _, metrics, observer = metered()
    broken = record(RunEnded(None, "failed"), object())  # type: ignore[arg-type]  # what cannot be
    object.__setattr__(broken, "results", [object()])
    observer.turn(broken)
    observer.turn(broken)
    assert [message.message.split()[0] for message in caplog.records] == ["SM-0122"]
    metrics.close()


def test_a_submission_without_a_trace_gets_one_that_follows_from_its_root() -> None:
    observer = Observer(ZERO, 0.0, None, None)
    submit = Submit(RUN, Namespace("default"), FlowId("f"), [b"1"])
    assert parse(observer.stamped(submit).traceparent) == trace_of(RUN, 0.0)
    child = Submit(RunId("child"), Namespace("default"), FlowId("f"), [b"1"], parent=ParentRef(RUN, RUN, 0, 0, "#1"), traceparent="garbage")
    assert parse(observer.stamped(child).traceparent) == trace_of(RUN, 0.0)
    given = Submit(RUN, Namespace("default"), FlowId("f"), [b"1"], traceparent=f"00-{1:032x}-{2:016x}-00")
    assert observer.stamped(given) is given


def test_off_is_none() -> None:
    assert start(None) is None
