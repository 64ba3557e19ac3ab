"""What a projector exports: how far it is, and the figures of its windows, with a bounded number of names."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from tests.unit.projector.recorded import PARTITION, flows_of, recorded
from tests.unit.projector.test_feed import RECORDS, Bench

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_projector.metrics import Metrics
from stepmesh_projector.readings import LATELY_MS, MAX_NAMES, OTHER, Reading, Standing, figures, latest
from stepmesh_projector.usage import BILLION, Told
from stepmesh_projector.windows import FLOW, NAMESPACE, POOL, Counts, Label, Place, Window

N = Namespace("default")
SIZE_MS = 2_000


class Exported(MetricExporter):
    """Metric → attribute values, in the order of `by` → value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[tuple[Any, ...], Any]] = {}

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        by = {metric.name: metric.by for metric in names.OF_PROJECTORS}
        for resource in metrics_data.resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points: Any = metric.data.data_points
                self.found[metric.name] = {tuple(one.attributes[name] for name in by[metric.name]): one.value for one in points}
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        return


def exported(reading: Reading) -> dict[str, dict[tuple[Any, ...], Any]]:
    exporter = Exported()
    metrics = Metrics(exporter, Resource({}), 3_600)
    metrics.read(reading)
    metrics.close()
    return exporter.found


def place(kind: str, name: str) -> Place:
    return Place(Label(N, kind, name), 0)


def window(counts: Counts, *latencies_ms: int) -> Window:
    found = Window(counts=counts)
    for latency_ms in latencies_ms:
        found.latency.add(latency_ms)
    return found


def test_every_metric_comes_with_its_attributes_and_seconds() -> None:
    gpu = window(Counts(dispatched=9, succeeded=6, failed=2, retried=4), 1_000, 1_000)
    gpu.wait.add(500)
    gpu.usage.count(Told(4, 2, 6, BILLION, "USD"))
    run, both = window(Counts(runs_completed=3, runs_failed=1), 2_000), window(Counts(runs_completed=4, runs_failed=4), 4_000)
    for told in (Told(0, 2, 2, 2 * BILLION, "EUR"), Told(0, 0, 0, 4 * BILLION, "")):
        run.usage.count(told)
    both.usage.count(Told(0, 0, 0, BILLION, ""))
    found = exported(
        Reading(
            [Standing(PARTITION, 7, 20, 30)], SIZE_MS,
            figures([(place(POOL, "gpu"), gpu), (place(FLOW, "f"), run), (place(NAMESPACE, ""), both)]),
        )
    )  # fmt: skip
    assert set(found) == {metric.name for metric in names.OF_PROJECTORS}
    assert [found[one.name] for one in (names.PROJECTOR_LAG, names.PROJECTOR_FRAMES, names.PROJECTOR_ROWS)] == [
        {(0,): 7},
        {(0,): 20},
        {(0,): 30},
    ]
    assert found[names.WINDOW_TASKS.name] == {(N, "gpu", "success"): 3, (N, "gpu", "failed"): 1, (N, "gpu", "retrying"): 2}
    assert found[names.WINDOW_TASK_FAILURES.name] == {(N, "gpu"): 0.25}
    assert found[names.WINDOW_TASK_LATENCY.name][N, "gpu", "0.99"] == pytest.approx(1, rel=0.02)
    assert found[names.WINDOW_TASK_WAIT.name][N, "gpu", "0.5"] == pytest.approx(0.5, rel=0.02)
    assert found[names.WINDOW_RUNS.name] == {(N, "f", "completed"): 1.5, (N, "f", "failed"): 0.5, (N, "f", "cancelled"): 0}
    assert found[names.WINDOW_RUN_FAILURES.name] == {(N, "f"): 0.25, (N, ""): 0.5}
    assert found[names.WINDOW_TASK_TOKENS.name] == {(N, "gpu", "prompt"): 2, (N, "gpu", "completion"): 1, (N, "gpu", "total"): 3}
    assert found[names.WINDOW_TASK_COST.name] == {(N, "gpu", "USD"): 0.5}
    assert found[names.WINDOW_RUN_TOKENS.name] == {(N, "f", "prompt"): 0, (N, "f", "completion"): 1, (N, "f", "total"): 1}
    assert found[names.WINDOW_RUN_COST.name] == {(N, "f", "EUR"): 1, (N, "f", ""): 2, (N, "", ""): 0.5}
    assert found[names.WINDOW_RUN_LATENCY.name][N, "", "0.95"] == pytest.approx(4, rel=0.02)


def test_what_is_not_known_is_not_exported() -> None:
    found = exported(Reading([Standing(PARTITION, None, 0, 0)], SIZE_MS, figures([(place(POOL, "gpu"), Window())])))
    assert set(found) == {one.name for one in (names.PROJECTOR_FRAMES, names.PROJECTOR_ROWS, names.WINDOW_TASKS)}


@pytest.mark.parametrize("count", [MAX_NAMES, MAX_NAMES + 1])
def test_one_name_above_the_limit_and_the_least_busy_ones_are_one(count: int) -> None:
    pools = [(place(POOL, f"p{number}"), window(Counts(succeeded=number + 1))) for number in range(count)]
    (found,) = figures([*pools, *pools]).values()
    assert len(found) == MAX_NAMES
    assert sum(one.counts.succeeded for one in found) == 2 * sum(range(count + 1))
    others = [one.counts.succeeded for one in found if one.name == OTHER]
    assert others == ([] if count == MAX_NAMES else [2 * (1 + 2)])


async def test_figures_are_of_the_window_before_the_newest_frame_while_that_is_new() -> None:
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    for position, data in enumerate(RECORDS):
        await feed.take(position, data)
        if feed.windows(feed.at_ms - feed.at_ms % SIZE_MS - SIZE_MS):
            break
    bench.end()
    now_ms = feed.at_ms + LATELY_MS
    wanted = figures(feed.windows(feed.at_ms - feed.at_ms % SIZE_MS - SIZE_MS))
    assert wanted
    assert latest([feed], SIZE_MS, now_ms) == wanted
    assert latest([feed], SIZE_MS, now_ms + 1) == {}
    assert latest([], SIZE_MS, 1) == {}
