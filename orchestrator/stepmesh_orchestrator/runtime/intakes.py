"""What a partition reads of the topics that anybody may write to: one intake for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.ports import Clock, Store
from stepmesh_orchestrator.runtime.admission import Admission
from stepmesh_orchestrator.runtime.event_topic import EventTopic
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.intake import Intake
from stepmesh_orchestrator.runtime.submit_topic import SubmitTopic
from stepmesh_orchestrator.runtime.tenants import Tenants


class Intakes:
    """Of a deployment with so many `partitions`."""

    def __init__(self, broker: Broker, store: Store, clock: Clock, flows: FlowRegistry, settings: EngineSettings, tenants: Tenants) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._flows = flows
        self._settings = settings
        self._tenants = tenants

    def of(self, partition: Partition, partitions: int, room: Callable[[], Awaitable[None]]) -> tuple[Intake, ...]:
        """Those of one of its partitions, which has `room` for new work."""
        admission = Admission(self._flows, self._settings, self._tenants, partitions)
        takers = (
            SubmitTopic(self._broker, self._store, self._clock, admission, partitions),
            EventTopic(self._broker, self._clock, self._tenants.own, partitions),
        )
        return tuple(Intake(self._broker, self._clock, taker, partition, partitions, room) for taker in takers)
