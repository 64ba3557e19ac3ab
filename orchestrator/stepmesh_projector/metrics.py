"""A projector's metrics over OpenTelemetry: how far it is, and its windows as gauges.

Invariant: values are what the event loop left here, so the exporter's thread never looks into a live feed. The only door to OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.telemetry.pipeline import open_pipeline
from stepmesh_broker.telemetry.settings import TelemetrySettings
from stepmesh_projector.readings import Reading
from stepmesh_projector.summary import QUANTILES, Summary
from stepmesh_projector.windows import FLOW, NAMESPACE, POOL

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource

SERVICE = "stepmesh-projector"
Observed = Iterable[Observation]


class Metrics:
    """Of one process; exported every `interval_s` seconds until `close`."""

    def __init__(self, exporter: MetricExporter, resource: Resource, interval_s: float) -> None:
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_s * 1000)
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._reading = Reading([], 1, {})
        meter = self._provider.get_meter(names.SCOPE)
        for counted, count in ((names.PROJECTOR_FRAMES, self._frames), (names.PROJECTOR_ROWS, self._rows)):
            meter.create_observable_counter(counted.name, [_callback(count)], counted.unit, counted.meaning)
        for shown, observed in (
            (names.PROJECTOR_LAG, self._lag),
            (names.WINDOW_TASKS, self._tasks),
            (names.WINDOW_TASK_LATENCY, lambda: self._times(POOL, names.POOL, lambda one: one.latency_ms)),
            (names.WINDOW_TASK_WAIT, lambda: self._times(POOL, names.POOL, lambda one: one.wait_ms)),
            (names.WINDOW_TASK_FAILURES, lambda: self._failures(POOL, names.POOL)),
            (names.WINDOW_RUNS, self._runs),
            (names.WINDOW_RUN_LATENCY, lambda: self._both(lambda kind: self._times(kind, names.FLOW_NAME, lambda one: one.latency_ms))),
            (names.WINDOW_RUN_FAILURES, lambda: self._both(lambda kind: self._failures(kind, names.FLOW_NAME))),
            (names.WINDOW_TASK_TOKENS, lambda: self._tokens(POOL, names.POOL)),
            (names.WINDOW_TASK_COST, lambda: self._cost(POOL, names.POOL)),
            (names.WINDOW_RUN_TOKENS, lambda: self._both(lambda kind: self._tokens(kind, names.FLOW_NAME))),
            (names.WINDOW_RUN_COST, lambda: self._both(lambda kind: self._cost(kind, names.FLOW_NAME))),
        ):
            meter.create_observable_gauge(shown.name, [_callback(observed)], shown.unit, shown.meaning)

    def read(self, reading: Reading) -> None:
        """What is exported from now on."""
        self._reading = reading

    def close(self) -> None:
        """Export what there is, then end. Blocks, at most as long as the receiver's timeout."""
        self._provider.shutdown()

    def _lag(self) -> Observed:
        return [Observation(one.lag, {names.PARTITION: one.partition}) for one in self._reading.standings if one.lag is not None]

    def _frames(self) -> Observed:
        return [Observation(one.frames, {names.PARTITION: one.partition}) for one in self._reading.standings]

    def _rows(self) -> Observed:
        return [Observation(one.rows, {names.PARTITION: one.partition}) for one in self._reading.standings]

    def _tasks(self) -> Observed:
        for one in self._of(POOL):
            counts = one.counts
            for outcome, count in (("success", counts.succeeded), ("failed", counts.failed), ("retrying", counts.retried)):
                yield Observation(self._per_second(count), {**_about(one, names.POOL), names.OUTCOME: outcome})

    def _runs(self) -> Observed:
        for one in self._of(FLOW):
            counts = one.counts
            for status, count in (
                ("completed", counts.runs_completed),
                ("failed", counts.runs_failed),
                ("cancelled", counts.runs_cancelled),
            ):
                yield Observation(self._per_second(count), {**_about(one, names.FLOW_NAME), names.RUN_STATUS: status})

    def _times(self, kind: str, by: str, times: Callable[[Summary], list[float] | None]) -> Observed:
        for one in self._of(kind):
            for quantile, found_ms in zip(QUANTILES, times(one) or (), strict=False):
                yield Observation(found_ms / 1000, {**_about(one, by), names.QUANTILE: str(quantile)})

    def _failures(self, kind: str, by: str) -> Observed:
        return [Observation(one.failure_rate, _about(one, by)) for one in self._of(kind) if one.failure_rate is not None]

    def _tokens(self, kind: str, by: str) -> Observed:
        for one in self._of(kind):
            if one.tokens.total:
                for type_, count in (("prompt", one.tokens.prompt), ("completion", one.tokens.completion), ("total", one.tokens.total)):
                    yield Observation(self._per_second(count), {**_about(one, by), names.TOKEN_TYPE: type_})

    def _cost(self, kind: str, by: str) -> Observed:
        for one in self._of(kind):
            for currency, cost in one.cost.items():
                yield Observation(self._per_second(cost), {**_about(one, by), names.CURRENCY: currency})

    def _both(self, observed: Callable[[str], Observed]) -> Observed:
        """Of flows, and of the namespace as a flow without a name."""
        return [*observed(FLOW), *observed(NAMESPACE)]

    def _of(self, kind: str) -> list[Summary]:
        return self._reading.figures.get(kind, [])

    def _per_second(self, count: float) -> float:
        return count / self._reading.size_ms * 1000


def start(settings: TelemetrySettings | None, instance: str) -> Metrics | None:
    """None when no metrics are wanted. Raises `StepmeshError` SM-0121 when the OpenTelemetry packages are not installed."""
    if settings is None or settings.metrics_url is None:
        return None
    pipeline = open_pipeline(settings, SERVICE, instance)
    return None if pipeline.metrics is None else Metrics(pipeline.metrics, pipeline.resource, settings.interval_s)


def _callback(observed: Callable[[], Observed]) -> Callable[[CallbackOptions], Observed]:
    return lambda _: observed()


def _about(one: Summary, by: str) -> dict[str, str]:
    return {names.NAMESPACE: one.namespace, by: one.name}
