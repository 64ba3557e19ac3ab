"""A whole Stepmesh in one process: broker, journal, store, node, workers, opened in that order and ended in reverse.

Invariant: what was started is stopped, however far the start came; workers drain while the node still takes their results. The
only place where all parts meet; it holds no rules of theirs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from stepmesh import endpoint
from stepmesh.client import Client
from stepmesh.serving import GC_THRESHOLDS
from stepmesh.telemetry import instrument
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.telemetry import Configured, TelemetrySettings, read
from stepmesh_cli.addresses import BROKERS
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.doors import addresses, started
from stepmesh_cli.durability import Durability, require
from stepmesh_cli.errors import CommandError
from stepmesh_cli.own_worker import OwnWorker
from stepmesh_cli.plugins import Parts, parts_of
from stepmesh_cli.projection import Projection, check, projectors
from stepmesh_cli.storage import Storage, StorageSettings, storage_of
from stepmesh_components.mcp_server import require_mcp
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.runtime.sharing import TTL_S
from stepmesh_orchestrator.telemetry.setup import ProcessTelemetry, start

if TYPE_CHECKING:
    from stepmesh import Worker
    from stepmesh_broker.memory import MemoryBus
    from stepmesh_cli.processes import Supervisor, WorkerProcess
    from stepmesh_gateway.server import Gateway
    from stepmesh_gateway.settings import GatewaySettings
    from stepmesh_orchestrator.config import Config

T = TypeVar("T")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class DeploymentSettings:
    """What is started. `say` gets lines for a person (output of worker processes)."""

    broker: str = "memory"
    """One of `addresses.BROKERS`."""
    journal: str = "memory"
    """As `StorageSettings` has it, and `store`."""
    store: str | None = None
    blobs: Path | None = None
    """A folder for blobs instead of the store."""
    durability: Durability | None = None
    """What the journal must give; None: whatever it does."""
    data_dir: Path | None = None
    """None: a temporary folder if one is needed."""
    namespace: str = "default"
    partitions: int | None = None
    """None: as the data folder was made, else 1."""
    config: Config | None = None
    port: int | None = None
    """Of the embedded broker; None: any free one."""
    processes: tuple[WorkerProcess, ...] = ()
    """Run beside this process, in addition to those of plugins."""
    watched: Path | None = None
    """A folder whose code the processes run: they start again when it changes, and replay functions each time."""
    workers: tuple[Worker, ...] = ()
    """Run in this process."""
    grace_s: float = 20.0
    """What workers get to drain."""
    gateway: GatewaySettings | None = None
    """Serve gRPC and HTTP as well."""
    gateway_sockets: tuple[socket.socket, ...] = ()
    """That listen already where the gateway is to; the caller closes them."""
    owner: str = ""
    """How this process names itself in the journal."""
    ttl_s: float | None = None
    """Share the partitions with other processes, which may be silent for so long; None: own them all."""
    projection: Projection = "inline"
    """Who writes the read model."""
    plugin_workers_needed: bool = True
    """Whether a process of a plugin that cannot be started ends the deployment."""
    say: Callable[[str], None] = _to_stderr


class Deployment:
    """`async with Deployment(settings) as deployment:` or `start` and `stop`. `ended` fails when a part of it does: see `guard`."""

    def __init__(self, settings: DeploymentSettings) -> None:
        self.settings = settings
        self.url: str | None = None
        """Where workers and clients connect; None for the memory broker."""
        self.ended: asyncio.Future[None]
        self.node: Node
        self.parts: Parts
        self.gateway: Gateway | None = None
        self.supervisor: Supervisor | None = None
        self._bus: MemoryBus | None = None
        self._data: Path | None = None
        self._partitions = 1
        self._telemetry: TelemetrySettings | None = None
        self._stack = AsyncExitStack()
        self._grace_ends: float | None = None
        self._gc_thresholds = gc.get_threshold()

    async def __aenter__(self) -> Deployment:
        """`start`."""
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """`stop`."""
        await self.stop()

    async def start(self) -> None:
        """Returns when runs can be submitted; worker processes may still be starting. Raises `StepmeshError` of any part."""
        self.ended = asyncio.get_running_loop().create_future()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def stop(self) -> None:
        """Drain the workers within `grace_s` for all of them together, finish turns, close. Idempotent."""
        if self._grace_ends is None:
            self._grace_ends = asyncio.get_running_loop().time() + self.settings.grace_s
        await self._stack.aclose()
        if self.ended.done():
            self.ended.exception()  # whoever guards has seen it; nobody else needs to
        gc.unfreeze()
        gc.set_threshold(*self._gc_thresholds)

    def hurry(self) -> None:
        """From now on `stop` waits for no worker."""
        self._grace_ends = 0.0

    async def connect(self) -> Broker:
        """One more open connection to the broker, closed with the deployment."""
        broker = self._new_broker()
        await broker.connect()
        self._stack.push_async_callback(broker.close)
        return broker

    async def client(self) -> Client:
        """A client on a connection of its own, closed with the deployment."""
        tracing = instrument(self._telemetry, "stepmesh-client")
        return Client(await self.connect(), self.settings.namespace, instrument=tracing)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless a part of the deployment fails first: then that part's error."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.ended.result()
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    # --- start, in order ----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings = self.settings
        self.parts = parts_of(settings.config)
        workers = self._own_workers()
        self._partitions = self._own_data_folder()
        await self._start_broker()
        storage = await self._open_storage()
        node_settings = NodeSettings(
            namespace=Namespace(settings.namespace),
            partitions=self._partitions,
            owner=settings.owner or f"{platform.node()}-{os.getpid()}",
            engine=self.parts.engine,
            prefixes=self.parts.prefixes,
            queues=self.parts.queues,
            ttl_s=settings.ttl_s or TTL_S,
            tenants=self.parts.tenants,
        )
        telemetry = self._open_telemetry(node_settings.owner)
        writers = await self._stack.enter_async_context(projectors(settings.projection, settings.store, node_settings.namespace))
        ports = Ports(await self.connect(), storage.journal, storage.store, SystemClock(), telemetry, writers)
        self.node = Node(ports, node_settings, self.parts.router, storage.membership)
        self.node.ended.add_done_callback(self._part_ended)
        self._stack.push_async_callback(self.node.stop)
        await self.node.start()
        for worker in workers:
            await self._run_worker(worker)
        connection = None if settings.gateway is None else await self.connect()
        self._stack.push_async_callback(self._stop_doors_and_processes)
        if connection is not None and settings.gateway is not None:
            self.gateway = await started(connection, settings.gateway, settings.gateway_sockets)
            self.gateway.ended.add_done_callback(self._part_ended)
        self._start_processes()

    def _open_telemetry(self, owner: str) -> ProcessTelemetry | None:
        """None when it is off. Closed after the node, beside the loop: a receiver that is away may hold it up for seconds."""
        config = self.settings.config
        block = Configured() if config is None else Configured(**config.telemetry.model_dump())
        self._telemetry = read(os.environ, block)
        telemetry = start(self._telemetry, owner)
        if telemetry is not None:
            self._stack.push_async_callback(asyncio.to_thread, telemetry.close)
        return telemetry

    def _own_data_folder(self) -> int:
        settings = self.settings
        if settings.data_dir is None:
            return settings.partitions or 1
        folder = DataFolder(settings.data_dir)
        folder.own()
        self._stack.callback(folder.release)
        self._data = folder.path
        return folder.partitions(settings.partitions)

    def _data_dir(self) -> Path:
        """The data folder; a temporary one, removed at the end, when none was given."""
        if self._data is None:
            self._data = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stepmesh-")))
        return self._data

    async def _start_broker(self) -> None:
        kind = self.settings.broker
        if kind == "memory":
            from stepmesh_broker.memory import MemoryBus

            self._bus = MemoryBus()
        elif kind == "embedded":
            from stepmesh_broker.nats import EmbeddedNats

            server = await self._stack.enter_async_context(EmbeddedNats(self._data_dir(), port=self.settings.port))
            self.url = server.url
        elif "://" in kind:
            self.url = kind
        else:
            raise CommandError(f"{kind!r} is not a broker", hint=f"use {BROKERS}")

    def _new_broker(self) -> Broker:
        if self._bus is not None:
            from stepmesh_broker.memory import MemoryBroker

            return MemoryBroker(self._bus, Namespace(self.settings.namespace))
        return endpoint.broker(self.url or "", self.settings.namespace)

    async def _open_storage(self) -> Storage:
        settings = self.settings
        wanted = StorageSettings(
            journal=settings.journal,
            store=settings.store,
            blobs=settings.blobs,
            namespace=settings.namespace,
            partitions=self._partitions,
            broker=self.url,
            kept=settings.data_dir is not None,
            shared=settings.ttl_s is not None,
        )
        check(settings.projection, wanted)
        storage = storage_of(wanted, self._data_dir)
        for part in storage.parts:
            await part.open()
            self._stack.push_async_callback(part.close)
        require(settings.durability, storage.journal, wanted.journal_name)
        return storage

    # --- workers ------------------------------------------------------------------------------------------------

    def _own_workers(self) -> list[Worker]:
        """The built-in pool, the mocks, the MCP servers, and those that the caller brought."""
        from stepmesh_components import builtin_worker, mock_worker

        namespace, parts = self.settings.namespace, self.parts
        mocks = [mock_worker(pool, components, namespace=namespace) for pool, components in parts.mocks.items()]
        return [builtin_worker(parts.file_roots, namespace=namespace), *mocks, *self._mcp_workers(), *self.settings.workers]

    def _mcp_workers(self) -> list[Worker]:
        servers = self.parts.mcp
        if not servers:
            return []
        require_mcp(f"the plugin {servers[0].name}")
        from stepmesh_components.mcp_worker import McpWorker  # late: only who has MCP servers pays for it

        return [McpWorker(server, namespace=self.settings.namespace) for server in servers]

    async def _run_worker(self, worker: Worker) -> None:
        worker.instrument = worker.instrument or instrument(self._telemetry, "stepmesh-worker")
        own = OwnWorker(worker, await self.connect())
        own.task.add_done_callback(self._part_ended)

        async def drain() -> None:
            await own.drain(self._grace_s())

        self._stack.push_async_callback(drain)

    def _grace_s(self) -> float:
        """What is left of it."""
        if self._grace_ends is None:
            return self.settings.grace_s
        return max(0.0, self._grace_ends - asyncio.get_running_loop().time())

    def _start_processes(self) -> None:
        needed = self.settings.plugin_workers_needed
        of_plugins = () if self.settings.ttl_s is not None else self.parts.processes  # each would start them again
        wanted = (*(replace(one, needed=needed) for one in of_plugins), *self.settings.processes)
        if not wanted:
            return
        from stepmesh_cli.processes import Supervisor

        settings = self.settings
        traced = {} if self._telemetry is None else self._telemetry.environment()
        self.supervisor = Supervisor({"STEPMESH_NAMESPACE": settings.namespace, **traced}, settings.say, self._fail, self._process_ended)
        if settings.watched is not None:
            from stepmesh_cli.development import for_authors, renew_on_change  # late: watchfiles is for authors

            wanted = for_authors(wanted)
            watching = asyncio.create_task(renew_on_change(self.supervisor, settings.watched, settings.say), name="stepmesh watch")
            watching.add_done_callback(self._part_ended)
            self._stack.callback(watching.cancel)
        self.supervisor.start([one.reaching(self._addresses(one)) for one in wanted])

    async def _stop_doors_and_processes(self) -> None:
        """Together: Stepflow's workers, told to stop, first finish what they have, then wait for the gateway to end their stream."""
        patience = self._grace_s()
        stops = [] if self.supervisor is None else [asyncio.ensure_future(self.supervisor.stop(patience))]
        stops += [] if self.gateway is None else [asyncio.ensure_future(self.gateway.stop(patience))]
        try:
            await asyncio.gather(*stops)
        except asyncio.CancelledError:  # hurried: each ends what it has at once
            await asyncio.gather(*stops, return_exceptions=True)
            raise

    def _process_ended(self, process: WorkerProcess, what: str) -> None:
        pool = process.environment.get("STEPMESH_POOL")
        if pool is not None:
            self.node.presence.trouble(pool, what)

    def _addresses(self, process: WorkerProcess) -> dict[str, str]:
        """Where a worker process finds the deployment: the broker if it can speak to it, else the gateway."""
        gateway = {} if self.gateway is None else addresses(self.gateway)
        if process.through == "broker" and self.url is not None:
            return {**gateway, "STEPMESH_URL": self.url}
        if not gateway:
            hint = "use --broker embedded, or the URL of a broker" if process.through == "broker" else "serve it with `stepmesh server`"
            raise CommandError(f"worker processes cannot reach a broker in memory: {process.label}", hint=hint)
        return gateway

    def _part_ended(self, part: asyncio.Future[None]) -> None:
        problem = None if part.cancelled() else part.exception()
        if problem is not None:
            self._fail(problem)

    def _fail(self, problem: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(problem)
