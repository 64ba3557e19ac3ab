"""An orchestrator process put together: ports in, partitions and the api served, until it is stopped. The only place where they meet.

Without a membership it owns all partitions, from its start to its stop. With one it shares them with others of its kind.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from stepmesh_broker.errors import MalformedMessage, StepmeshError
from stepmesh_broker.ports import Subscription
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.api import Info, Queue
from stepmesh_broker.protocol.codec import decode_presence, encode
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.messages import Hello
from stepmesh_orchestrator.core.commands import CodeCame
from stepmesh_orchestrator.core.flow.routing import Router, default_router
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.ports import Member, Membership
from stepmesh_orchestrator.runtime.agreement import agree
from stepmesh_orchestrator.runtime.api import Api
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.holding import Holding
from stepmesh_orchestrator.runtime.owners import Owners, moving
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.peers import PeerRequests
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.readings import READ_EVERY_S, read_shard
from stepmesh_orchestrator.runtime.run_view import RunView
from stepmesh_orchestrator.runtime.sharing import TTL_S, Sharing
from stepmesh_orchestrator.runtime.tenants import Tenants
from stepmesh_orchestrator.telemetry.observer import Telemetry

log = logging.getLogger("stepmesh.node")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Of one orchestrator process. `prefixes`: pool → the prefix under which a flow writes its components, for listings. `queues`: the
    pools of the configuration; None without one. `ttl_s`: how long a member of a cluster may be silent. `tenants`: other namespaces that
    runs may have; None = any."""

    namespace: Namespace = Namespace("default")
    partitions: int = 1
    owner: str = "node"
    engine: EngineSettings = field(default_factory=EngineSettings)
    limits: dict[str, int] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    queues: tuple[Queue, ...] | None = None
    ttl_s: float = TTL_S
    tenants: tuple[str, ...] | None = ()


class Node:
    """Owns partitions of a namespace: all, or its share. The ports are open while it runs and stay the caller's."""

    def __init__(self, ports: Ports, settings: NodeSettings, router: Router | None = None, membership: Membership | None = None) -> None:
        self.ports = ports
        self.settings = settings
        self.name = settings.owner if membership is None else f"{settings.owner}-{secrets.token_hex(3)}"
        self.flows = FlowRegistry(ports.store, ports.clock)
        self.presence = Presence(ports.clock)
        self.partitions: dict[Partition, PartitionService] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sharing: Sharing | None = None
        self._router = router or default_router()
        self._engine = replace(settings.engine, secrets_may_rest=ports.journal.durability == "process")
        self._served: list[Subscription] = []
        self._doors: dict[Partition, Subscription] = {}
        self._peers: dict[Partition, PeerRequests] = {}
        self._answering: dict[Partition, Callable[[bytes], Awaitable[bytes]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._aborted = False
        self._journal_id = ""
        if membership is not None:
            self.sharing = self._shared(membership)
        self.api = self._made_api()

    async def start(self) -> None:
        """Recover every partition, then serve; in a cluster, serve and begin to take partitions. Raises `JournalError`, `BrokerError`,
        `StoreError`, `MembershipError`, `PartitionsDisagree`; nothing is left behind then."""
        try:
            await self._start()
        except BaseException:
            await self.abort()
            raise

    async def _start(self) -> None:
        broker, namespace, sharing = self.ports.broker, self.settings.namespace, self.sharing
        self._served.append(await broker.listen(subjects.presence(namespace), self._hear))
        if sharing is None:
            await self._own_all()
            self._served.append(await broker.serve(subjects.api(namespace), self._answer, group="api"))
        else:
            await agree(broker, self.ports.journal, namespace, self.settings.partitions)
            self._served.append(await broker.listen(subjects.moves(namespace), self._look))
            self._served.append(await broker.serve(subjects.api(namespace), self._answer, group="api"))
            await sharing.join()
        if self.ports.telemetry is not None:
            self._reading = asyncio.create_task(self._read(self.ports.telemetry))

    async def _own_all(self) -> None:
        for number in range(self.settings.partitions):
            service = self._service(Partition(number), self._fail)
            await service.start()
            self._opened(service)

    async def stop(self) -> None:
        """Take nothing new, finish what is begun, keep snapshots."""
        for served in self._served:
            await served.close()
        self.api.stop()
        if self.sharing is not None:
            await self.sharing.leave()
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
        if self.sharing is not None:
            await self.sharing.abort()
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
            fresh = self.presence.hear(message)
            for service in self.partitions.values() if fresh else ():
                service.shard.post(CodeCame(message.pool, frozenset(fresh)))

    async def _look(self, data: bytes) -> None:
        if self.sharing is not None and data != self.name.encode():
            self.sharing.look()

    # --- parts --------------------------------------------------------------------------------------------------

    def _service(self, partition: Partition, on_end: Callable[[BaseException], None]) -> PartitionService:
        return PartitionService(
            self.ports,
            Tenants(self.settings.namespace, self.settings.tenants),
            partition,
            self.name,
            self._router,
            self._engine,
            self.flows,
            self.presence,
            self.settings.partitions,
            on_end,
            self._is_held,
        )

    def _made_api(self) -> Api:
        sharing, settings = self.sharing, self.settings
        owners = None
        if sharing is not None:
            owners = Owners(self.ports.broker, settings.namespace, settings.partitions, self._answering)
        view = RunView(self.ports, settings.namespace, self._owner_of, self.partitions)
        return Api(view, self._info, settings.queues, self.flows, self.presence, self._component_path, owners)

    def _info(self) -> Info | None:
        if not self._journal_id:
            return None
        settings, ports = self.settings, self.ports
        shared = self.sharing is not None
        limits = {"message_bytes": ports.broker.max_message_bytes, **settings.limits}
        kept = ports.journal
        return Info(
            version("stepmesh"), settings.namespace, settings.partitions, kept.durability, self._journal_id, limits, shared, kept.survives
        )

    def _owner_of(self, partition: Partition) -> str:
        if self.sharing is not None:
            return self.sharing.owner(partition)
        return self.name if partition in self.partitions else ""

    def _is_held(self) -> bool:
        return self.sharing is None or self.sharing.is_held()

    def _opened(self, service: PartitionService) -> None:
        self.partitions[service.partition] = service
        self._journal_id = service.shard.ownership.journal_id
        for pool, path, _ in set(self.presence.functions()):  # whoever owned it may have died before it told those that wait for code
            service.shard.post(CodeCame(pool, frozenset((path,))))

    # --- in a cluster -------------------------------------------------------------------------------------------

    def _shared(self, membership: Membership) -> Sharing:
        member = Member(self.name, version("stepmesh"))
        sharing = Sharing(membership, member, self.settings.ttl_s, self.settings.partitions, self.ports.clock, self._held, self._tell)
        sharing.gave_up.add_done_callback(lambda done: self._fail(done.exception()))
        return sharing

    def _held(self, partition: Partition) -> Holding:
        if not self.partitions:
            self.flows.forget_all()
        return Holding(partition, self.ports.clock, self._service, self._open, self._close, self._failed)

    async def _open(self, service: PartitionService) -> None:
        """Others may ask its owner from now on."""
        partition = service.partition
        peers = self._peers[partition] = PeerRequests(service, self.name, self.flows, self.api.answer_here)

        async def here(data: bytes) -> bytes:
            return await self.api.serve_peer(data, peers) if self._is_held() else encode(moving(partition))

        async def served(data: bytes) -> bytes:
            if not self._is_held():  # another one may answer
                raise asyncio.CancelledError
            return await here(data)

        self._opened(service)
        self._answering[partition] = here
        self._doors[partition] = await self.ports.broker.serve(subjects.owner(self.settings.namespace, partition), served)

    async def _close(self, service: PartitionService) -> None:
        peers = self._peers.pop(service.partition, None)
        if peers is not None:
            peers.close()
        self._answering.pop(service.partition, None)
        self.partitions.pop(service.partition, None)
        door = self._doors.pop(service.partition, None)
        if door is not None:
            await door.close()

    def _failed(self) -> None:
        if self.sharing is not None:
            self.sharing.look()

    async def _tell(self) -> None:
        try:
            await self.ports.broker.send(subjects.moves(self.settings.namespace), self.name.encode())
        except StepmeshError as problem:
            log.info("the others look later: %s", problem)

    def _component_path(self, pool: Pool, component: str) -> str:
        prefix = self.settings.prefixes.get(pool, f"/{pool}")
        return f"{prefix.rstrip('/')}{component}"

    def _fail(self, problem: BaseException | None) -> None:
        log.error("a partition ended: %s", problem)
        if problem is not None and not self.ended.done():
            self.ended.set_exception(problem)
