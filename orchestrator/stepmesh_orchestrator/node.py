"""An orchestrator process put together: ports in, partitions and the api served, until it is stopped. The only place where they meet."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from stepmesh_broker.errors import MalformedMessage
from stepmesh_broker.ports import Subscription
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.api import Info, Queue
from stepmesh_broker.protocol.codec import decode_presence
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.messages import Hello
from stepmesh_orchestrator.core.flow.routing import Router, default_router
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.runtime.api import Api
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.readings import READ_EVERY_S, read_shard
from stepmesh_orchestrator.telemetry.observer import Telemetry

log = logging.getLogger("stepmesh.node")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Of one orchestrator process. `prefixes`: pool → the prefix under which a flow writes its components, for listings. `queues`: the
    pools of the configuration; None without one."""

    namespace: Namespace = Namespace("default")
    partitions: int = 1
    owner: str = "node"
    engine: EngineSettings = field(default_factory=EngineSettings)
    limits: dict[str, int] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    queues: tuple[Queue, ...] | None = None


class Node:
    """Owns all partitions of a namespace. The ports are open while it runs and stay the caller's."""

    def __init__(self, ports: Ports, settings: NodeSettings, router: Router | None = None) -> None:
        self.ports = ports
        self.settings = settings
        self.flows = FlowRegistry(ports.store, ports.clock)
        self.presence = Presence(ports.clock)
        self.partitions: dict[Partition, PartitionService] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.api: Api
        self._router = router or default_router()
        self._served: list[Subscription] = []
        self._reading: asyncio.Task[None] | None = None
        self._aborted = False

    async def start(self) -> None:
        """Recover every partition, then serve. Raises `JournalError`, `BrokerError`, `StoreError`; nothing is left behind then."""
        try:
            await self._start()
        except BaseException:
            await self.abort()
            raise

    async def _start(self) -> None:
        broker, namespace = self.ports.broker, self.settings.namespace
        self._served.append(await broker.listen(subjects.presence(namespace), self._hear))
        engine = replace(self.settings.engine, secrets_may_rest=self.ports.journal.durability == "process")
        for number in range(self.settings.partitions):
            partition = Partition(number)
            service = PartitionService(
                self.ports,
                namespace,
                partition,
                self.settings.owner,
                self._router,
                engine,
                self.flows,
                self.presence,
                self.settings.partitions,
                self._fail,
            )
            await service.start()
            self.partitions[partition] = service
        journal_id = self.partitions[Partition(0)].shard.ownership.journal_id
        limits = {"message_bytes": broker.max_message_bytes, **self.settings.limits}
        info = Info(version("stepmesh"), namespace, self.settings.partitions, self.ports.journal.durability, journal_id, limits)
        self.api = Api(
            self.ports,
            namespace,
            self.settings.owner,
            info,
            self.settings.queues,
            self.flows,
            self.presence,
            self.partitions,
            self._component_path,
        )
        self._served.append(await broker.serve(subjects.api(namespace), self._answer, group="api"))
        if self.ports.telemetry is not None:
            self._reading = asyncio.create_task(self._read(self.ports.telemetry))

    async def stop(self) -> None:
        """Take nothing new, finish what is begun, keep snapshots."""
        for served in self._served:
            await served.close()
        for service in self.partitions.values():
            await service.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))

    async def _read(self, telemetry: Telemetry) -> None:
        while True:
            telemetry.read([read_shard(service.shard, service.sweeper, self.ports.clock) for service in self.partitions.values()])
            await self.ports.clock.sleep(READ_EVERY_S)

    async def abort(self) -> None:
        """End at once, as a crash would; a partition that failed leaves nothing to save, and nothing for a `stop` that follows."""
        self._aborted = True
        for service in self.partitions.values():
            await service.abort()
        self.partitions.clear()
        for served in self._served:
            await served.close()
        self._served.clear()
        if self._reading is not None:
            self._reading.cancel()

    async def _answer(self, data: bytes) -> bytes:
        """Nothing after an abort: what is in memory then may be more than the journal holds, or nothing. Who asked asks again."""
        answer = await self.api.serve(data)
        if self._aborted:
            raise asyncio.CancelledError
        return answer

    async def _hear(self, data: bytes) -> None:
        try:
            message = decode_presence(data)
        except MalformedMessage as problem:
            log.warning("a worker said something that is not understood: %s", problem)
            return
        if isinstance(message, Hello):
            self.presence.hear(message)

    def _component_path(self, pool: Pool, component: str) -> str:
        prefix = self.settings.prefixes.get(pool, f"/{pool}")
        return f"{prefix.rstrip('/')}{component}"

    def _fail(self, problem: BaseException) -> None:
        log.error("a partition ended: %s", problem)
        if not self.ended.done():
            self.ended.set_exception(problem)
