"""A process's metrics: what turns add, and what the latest readings of its shards show.

Invariant: the library's instruments (5 µs a call) are used per turn or for rare events, never per healthy step; gauges and counters of
the runtime are values that the event loop left here, so the exporter's thread never looks into a live shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.events import RunEnded, StepDefaulted, StepFailed, StepRetrying
from stepmesh_orchestrator.telemetry.departures import UNKNOWN_POOL
from stepmesh_orchestrator.telemetry.digest import Digest
from stepmesh_orchestrator.telemetry.distributions import Distribution, WithDistributions
from stepmesh_orchestrator.telemetry.observer import PoolReading, ShardReading, TurnRecord

_COUNTS: tuple[tuple[names.Metric, Callable[[ShardReading], int]], ...] = (
    (names.TASKS_PUBLISHED, lambda shard: shard.published),
    (names.REDISPATCHED, lambda shard: shard.redispatched),
    (names.STALE_RESULTS, lambda shard: shard.stale_results),
    (names.MALFORMED, lambda shard: shard.malformed),
    (names.QUARANTINED, lambda shard: shard.quarantined),
)
_LEVELS: tuple[tuple[names.Metric, Callable[[ShardReading], int]], ...] = (
    (names.RUNS_LIVE, lambda shard: shard.runs),
    (names.OUTBOX_FRAMES, lambda shard: shard.outbox_frames),
    (names.INBOX_MESSAGES, lambda shard: shard.inbox_messages),
    (names.PROJECTION_ROWS, lambda shard: shard.projection_rows),
    (names.BREAKERS_OPEN, lambda shard: shard.breakers),
)
_IDLE = PoolReading(0, 0, 0.0)
_EVENT_BOUNDS = (1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000)
_BYTE_BOUNDS = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
_APPEND_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """Of one process; exported every `interval_s` seconds until `close`."""

    def __init__(self, exporter: MetricExporter, resource: Resource, interval_s: float) -> None:
        self.queue_wait = Distribution(names.QUEUE_WAIT)
        self.duration = Distribution(names.TASK_DURATION)
        self._readings: Sequence[ShardReading] = ()
        self._pools: dict[Partition, dict[str, PoolReading]] = {}
        self._lanes: dict[Partition, dict[tuple[str, str], int]] = {}
        joined = WithDistributions(exporter, (self.queue_wait, self.duration), resource)
        reader = PeriodicExportingMetricReader(joined, export_interval_millis=interval_s * 1000)
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(names.SCOPE)
        self._turn_events = self._histogram(names.TURN_EVENTS, _EVENT_BOUNDS)
        self._turn_bytes = self._histogram(names.TURN_BYTES, _BYTE_BOUNDS)
        self._append = self._histogram(names.JOURNAL_APPEND, _APPEND_BOUNDS_S)
        self._retries = self._counter(names.TASK_RETRIES)
        self._failures = self._counter(names.TASK_FAILURES)
        self._parked = self._counter(names.TASK_PARKED)
        self._ended = self._counter(names.RUNS_ENDED)
        self._observe()

    def turn(self, partition: Partition, record: TurnRecord, digest: Digest) -> None:
        """Add a turn."""
        about = {names.PARTITION: partition}
        self._turn_events.record(len(record.events), about)
        self._turn_bytes.record(record.frame_bytes, about)
        self._append.record(record.append_s, about)
        ended = [landed for landed in digest.landed.values() if landed.result is not None]
        if ended:
            self.duration.add(((one.departed.pool, one.departed.component), one.result.duration_us / 1e6) for one in ended if one.result)
            self.queue_wait.add(((one.departed.pool, one.departed.component), one.queue_s) for one in ended)
        for event in digest.notable:
            if isinstance(event, StepRetrying):
                kind = "transport" if event.transport else "component"
                self._retries.add(1, {names.POOL: _pool(digest, event), names.RETRY_KIND: kind, names.ERROR_TYPE: _code(event.failure)})
            elif isinstance(event, StepDefaulted) or (isinstance(event, StepFailed) and not event.inherited):
                self._failed(_pool(digest, event), event.failure)
            elif isinstance(event, RunEnded):
                self._ended.add(1, {names.RUN_STATUS: event.status, **about})

    def read(self, readings: Sequence[ShardReading]) -> None:
        """The latest readings of all shards, as values. A pool that was read once is told for as long as its shard is here: who scales
        by a gauge that is gone keeps its last value."""
        for shard in readings:
            self._pools.setdefault(shard.partition, {}).update(dict.fromkeys(shard.pools, _IDLE))
            self._lanes.setdefault(shard.partition, {}).update(dict.fromkeys(shard.lanes, 0))
        self._readings = [
            replace(shard, pools={**self._pools[shard.partition], **shard.pools}, lanes={**self._lanes[shard.partition], **shard.lanes})
            for shard in readings
        ]

    def flush(self) -> None:
        """Export now."""
        self._provider.force_flush()

    def close(self) -> None:
        """Export what there is, then end."""
        self._provider.shutdown()

    def _failed(self, pool: str, failure: Failure) -> None:
        self._failures.add(1, {names.POOL: pool, names.ERROR_TYPE: _code(failure)})
        if failure.code == ErrorCode.UNREACHABLE:  # its budget is spent: the core parks exactly these
            self._parked.add(1, {names.POOL: pool})

    def _histogram(self, about: names.Metric, bounds: Sequence[float]) -> Any:
        return self._meter.create_histogram(about.name, about.unit, about.meaning, explicit_bucket_boundaries_advisory=bounds)

    def _counter(self, about: names.Metric) -> Any:
        return self._meter.create_counter(about.name, about.unit, about.meaning)

    def _observe(self) -> None:
        meter = self._meter
        for about, value in _COUNTS:
            meter.create_observable_counter(about.name, [self._per_shard(value)], about.unit, about.meaning)
        for about, value in _LEVELS:
            meter.create_observable_gauge(about.name, [self._per_shard(value)], about.unit, about.meaning)
        for about, observed in (
            (names.POOL_TASKS, self._pool_tasks),
            (names.POOL_WANTED, self._pool_wanted),
            (names.POOL_OLDEST, self._pool_oldest),
            (names.POOL_WAITING, self._pool_waiting),
        ):
            meter.create_observable_gauge(about.name, [observed], about.unit, about.meaning)

    def _per_shard(self, value: Callable[[ShardReading], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(value(shard), {names.PARTITION: shard.partition}) for shard in self._readings]

    def _pool_tasks(self, _: CallbackOptions) -> Iterable[Observation]:
        for shard in self._readings:
            for pool, reading in shard.pools.items():
                for state, count in (("queued", reading.queued), ("claimed", reading.claimed)):
                    yield Observation(count, {names.POOL: pool, names.PARTITION: shard.partition, names.TASK_STATE: state})

    def _pool_wanted(self, _: CallbackOptions) -> Iterable[Observation]:
        for shard in self._readings:
            for pool, reading in shard.pools.items():
                yield Observation(reading.queued + reading.claimed, {names.POOL: pool, names.PARTITION: shard.partition})

    def _pool_oldest(self, _: CallbackOptions) -> Iterable[Observation]:
        for shard in self._readings:
            for pool, reading in shard.pools.items():
                yield Observation(reading.oldest_s, {names.POOL: pool, names.PARTITION: shard.partition})

    def _pool_waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        for shard in self._readings:
            for (pool, namespace), count in shard.lanes.items():
                yield Observation(count, {names.POOL: pool, names.NAMESPACE: namespace, names.PARTITION: shard.partition})


def _pool(digest: Digest, event: StepRetrying | StepFailed | StepDefaulted) -> str:
    landed = digest.landed.get((event.run, event.item, event.step))
    return UNKNOWN_POOL if landed is None else landed.departed.pool


def _code(failure: Failure) -> str:
    return ErrorCode(failure.code).name
