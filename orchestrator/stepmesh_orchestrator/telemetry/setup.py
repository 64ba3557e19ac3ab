"""Telemetry of an orchestrator process, put together from settings; None when it is off. OpenTelemetry is imported only when it is on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_broker.protocol.messages import Submit
from stepmesh_broker.telemetry.pipeline import Pipeline, open_pipeline
from stepmesh_broker.telemetry.settings import TelemetrySettings
from stepmesh_orchestrator.core.session import Flows
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.telemetry.departures import Departures
from stepmesh_orchestrator.telemetry.digest import digest
from stepmesh_orchestrator.telemetry.observer import Key, ShardReading, TurnRecord

if TYPE_CHECKING:
    from stepmesh_orchestrator.telemetry.metrics import Metrics
    from stepmesh_orchestrator.telemetry.tracing import TurnTracer

log = logging.getLogger("stepmesh.telemetry")
SERVICE = "stepmesh-orchestrator"


def start(settings: TelemetrySettings | None, instance: str = "") -> ProcessTelemetry | None:
    """`instance`: name of this process. Raises `StepmeshError` SM-0121 when the OpenTelemetry packages are not installed."""
    if settings is None:
        return None
    return ProcessTelemetry(open_pipeline(settings, SERVICE, instance))


class ProcessTelemetry:
    """Opened by `start`; whoever did that closes it after the node has stopped."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._metrics: Metrics | None = None
        if pipeline.metrics is not None:
            from stepmesh_orchestrator.telemetry.metrics import Metrics

            self._metrics = Metrics(pipeline.metrics, pipeline.resource, pipeline.settings.interval_s)

    def observer(self, namespace: Namespace, partition: Partition, flows: Flows) -> Observer:
        """See `observer.Telemetry`."""
        from stepmesh_orchestrator.telemetry.tracing import TurnTracer

        ratio = self._pipeline.settings.sampling
        tracer = TurnTracer(self._pipeline.sink, ratio, namespace, partition, flows) if self._pipeline.processors else None
        return Observer(partition, ratio, tracer, self._metrics)

    def read(self, readings: Sequence[ShardReading]) -> None:
        """See `observer.Telemetry`."""
        if self._metrics is not None:
            self._metrics.read(readings)

    def flush(self) -> None:
        """Export what is queued, now. Blocks."""
        self._pipeline.flush()
        if self._metrics is not None:
            self._metrics.flush()

    def close(self) -> None:
        """Export what is queued, then end. Blocks, at most as long as the receiver's timeout."""
        if self._metrics is not None:
            self._metrics.close()
        self._pipeline.close()


class Observer:
    """One shard's `observer.TurnObserver`."""

    def __init__(self, partition: Partition, ratio: float, tracer: TurnTracer | None, metrics: Metrics | None) -> None:
        self._partition = partition
        self._ratio = ratio
        self._tracer = tracer
        self._metrics = metrics
        self._departures = Departures()
        self._broken = False

    def adopt(self, state: State, pools: Mapping[Key, str]) -> None:
        """See `observer.TurnObserver`."""
        self._departures.adopt(state, pools)
        if self._tracer is not None:
            self._tracer.adopt(state)

    def stamped(self, submit: Submit) -> Submit:
        """See `observer.TurnObserver`."""
        if tracecontext.parse(submit.traceparent) is not None:
            return submit
        root = submit.run if submit.parent is None else submit.parent.root
        return msgspec.structs.replace(submit, traceparent=tracecontext.trace_of(root, self._ratio).header)

    def turn(self, record: TurnRecord) -> None:
        """See `observer.TurnObserver`. A defect here costs the telemetry of the partition, never the partition."""
        if self._broken:
            return
        try:
            self._tell(record)
        except Exception:
            self._broken = True
            log.exception("SM-0122 telemetry of partition %d failed and is off until the partition starts again", self._partition)

    def _tell(self, record: TurnRecord) -> None:
        found = digest(record, self._departures)
        if self._tracer is not None:
            self._tracer.turn(record, found)
        if self._metrics is not None:
            self._metrics.turn(self._partition, record, found)
