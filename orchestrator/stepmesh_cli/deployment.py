"""A whole Stepmesh in one process: broker, journal, store, node, workers, opened in that order and ended in reverse.

Invariant: what was started is stopped, however far the start came; workers drain while the node still takes their results. The
only place where all parts meet; it holds no rules of theirs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from stepmesh.client import Client
from stepmesh.serving import GC_THRESHOLDS
from stepmesh.telemetry import instrument
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.telemetry import Configured, TelemetrySettings, read
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.errors import CommandError
from stepmesh_cli.plugins import Parts, parts_of
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.ports import Journal, Store
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.telemetry.setup import ProcessTelemetry, start

if TYPE_CHECKING:
    from stepmesh import Worker
    from stepmesh_broker.memory import MemoryBus
    from stepmesh_cli.processes import Supervisor, WorkerProcess
    from stepmesh_orchestrator.config import Config

T = TypeVar("T")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class DeploymentSettings:
    """`broker`: `memory`, `embedded` or a `nats://` URL. `journal`: `memory`, `sqlite` (in the data folder) or `sqlite:PATH`; the store
    lies beside it. `data_dir` None: a temporary folder if one is needed. `port`: of the embedded broker, None = any free one.
    `partitions` None: as the data folder was made, else 1. `processes` run beside this one, `workers` in it. `grace_s`: seconds
    that workers get to drain. `say`: gets lines for a person (output of worker processes)."""

    broker: str = "memory"
    journal: str = "memory"
    data_dir: Path | None = None
    namespace: str = "default"
    partitions: int | None = None
    config: Config | None = None
    port: int | None = None
    processes: tuple[WorkerProcess, ...] = ()
    workers: tuple[Worker, ...] = ()
    grace_s: float = 20.0
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
        self.supervisor: Supervisor | None = None
        self._bus: MemoryBus | None = None
        self._data: Path | None = None
        self._telemetry: TelemetrySettings | None = None
        self._stack = AsyncExitStack()
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
        """Drain the workers, finish turns, close. Idempotent."""
        await self._stack.aclose()
        if self.ended.done():
            self.ended.exception()  # whoever guards has seen it; nobody else needs to
        gc.unfreeze()
        gc.set_threshold(*self._gc_thresholds)

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
        partitions = self._own_data_folder()
        await self._start_broker()
        journal, store = await self._open_storage()
        node_settings = NodeSettings(
            namespace=Namespace(settings.namespace),
            partitions=partitions,
            owner=f"{platform.node()}-{os.getpid()}",
            engine=self.parts.engine,
            prefixes=self.parts.prefixes,
            queues=self.parts.queues,
        )
        telemetry = self._open_telemetry(node_settings.owner)
        ports = Ports(await self.connect(), journal, store, SystemClock(), telemetry)
        self.node = Node(ports, node_settings, self.parts.router)
        self.node.ended.add_done_callback(self._part_ended)
        self._stack.push_async_callback(self.node.stop)
        await self.node.start()
        for worker in self._own_workers():
            await self._run_worker(worker)
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
            raise CommandError(f"{kind!r} is not a broker", hint="use memory, embedded or nats://host:4222")

    def _new_broker(self) -> Broker:
        namespace = Namespace(self.settings.namespace)
        if self._bus is not None:
            from stepmesh_broker.memory import MemoryBroker

            return MemoryBroker(self._bus, namespace)
        from stepmesh_broker.nats import NatsBroker, NatsSettings

        return NatsBroker(NatsSettings(url=self.url or "", namespace=namespace))

    async def _open_storage(self) -> tuple[Journal, Store]:
        journal, store = self._storage()
        for part in (journal, store):
            await part.open()
            self._stack.push_async_callback(part.close)
        return journal, store

    def _storage(self) -> tuple[Journal, Store]:
        kind, _, path = self.settings.journal.partition(":")
        if self.settings.journal == "memory":
            from stepmesh_orchestrator.journal.memory import MemoryJournal
            from stepmesh_orchestrator.store.memory import MemoryStore

            return MemoryJournal(), MemoryStore()
        if kind != "sqlite":
            raise CommandError(f"{self.settings.journal!r} is not a journal", hint="use memory, sqlite or sqlite:PATH")
        from stepmesh_orchestrator.journal.sqlite import SqliteJournal
        from stepmesh_orchestrator.store.sqlite import SqliteStore

        file = Path(path) if path else self._data_dir() / "journal.db"
        return SqliteJournal(file), SqliteStore(file.with_name("store.db" if file.name == "journal.db" else f"{file.stem}.store.db"))

    # --- workers ------------------------------------------------------------------------------------------------

    def _own_workers(self) -> list[Worker]:
        """The built-in pool, the mocks, and those that the caller brought."""
        from stepmesh_components import builtin_worker, mock_worker

        namespace, parts = self.settings.namespace, self.parts
        mocks = [mock_worker(pool, components, namespace=namespace) for pool, components in parts.mocks.items()]
        return [builtin_worker(parts.file_roots, namespace=namespace), *mocks, *self.settings.workers]

    async def _run_worker(self, worker: Worker) -> None:
        worker.instrument = worker.instrument or instrument(self._telemetry, "stepmesh-worker")
        task = asyncio.create_task(worker.run(await self.connect()), name=f"stepmesh worker {worker.pool}")
        task.add_done_callback(self._part_ended)

        async def drain() -> None:
            worker.stop()
            await asyncio.wait((task,), timeout=self.settings.grace_s)
            worker.stop()
            await asyncio.wait((task,))

        self._stack.push_async_callback(drain)

    def _start_processes(self) -> None:
        wanted = (*self.parts.processes, *self.settings.processes)
        if not wanted:
            return
        if self.url is None:
            raise CommandError("worker processes cannot reach a broker in memory", hint="use --broker embedded, or a nats:// URL")
        from stepmesh_cli.processes import Supervisor

        settings = self.settings
        traced = {} if self._telemetry is None else self._telemetry.environment()
        environment = {"STEPMESH_URL": self.url, "STEPMESH_NAMESPACE": settings.namespace, **traced}
        self.supervisor = Supervisor(environment, settings.say, self._fail)
        self._stack.push_async_callback(self.supervisor.stop, settings.grace_s)
        self.supervisor.start(wanted)

    def _part_ended(self, part: asyncio.Future[None]) -> None:
        problem = None if part.cancelled() else part.exception()
        if problem is not None:
            self._fail(problem)

    def _fail(self, problem: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(problem)
