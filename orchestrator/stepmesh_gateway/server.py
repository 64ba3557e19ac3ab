"""A gateway: the doors, opened in order and closed in reverse. Stateless; any number of them may run over one broker.

It meets all parts of the package and holds no rules of theirs.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Sequence
from types import TracebackType

import grpc.aio

from stepmesh_broker.ports import Broker
from stepmesh_gateway.http.app import application
from stepmesh_gateway.http.protocol import HttpServing, refusal_bytes
from stepmesh_gateway.http.refusals import too_many_connections
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.port import Port, port_taken
from stepmesh_gateway.rpc import (
    admin,
    blobs,
    components,
    events,
    flows,
    gateway,
    health,
    orchestrator,
    reflection,
    runs,
    serving,
    tasks,
    work,
)
from stepmesh_gateway.rpc.assignments import Assignments
from stepmesh_gateway.rpc.discovery import Discovery
from stepmesh_gateway.rpc.nats_line import NatsLine
from stepmesh_gateway.rpc.serving import Service
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.work.bridge import Bridge

_EVERY_INTERFACE = frozenset({"0.0.0.0", "::", "[::]", ""})

_CLOSING_S = 0.5
"""What answers that are on their way get, even when the drain time is over."""


class Gateway:
    """`async with Gateway(broker, settings) as gateway:`; `broker` is connected, and stays so. `sockets`: it listens on these, which are
    bound already, and not on the settings' port. `port`: where it listens for gRPC and HTTP. `grpc_port`: where it listens for gRPC
    alone, if it was told to."""

    def __init__(self, broker: Broker, settings: GatewaySettings, sockets: Sequence[socket.socket] = ()) -> None:
        self.settings = settings
        self._sockets = sockets
        self.port = 0
        self.grpc_port: int | None = None
        self.operations = operations = Operations(broker, settings)
        self.bridge = Bridge(broker, settings, operations.id)
        discovery = Discovery()
        assignments = Assignments(settings, lambda: self.address)
        self._queues = [NatsLine(queue, self.bridge, discovery, assignments, settings.queue_silent_s) for queue in settings.queues]
        services = [
            Service(runs.DESCRIPTOR, runs.RunsMethods(operations)),
            Service(flows.DESCRIPTOR, flows.FlowsMethods(operations)),
            Service(blobs.DESCRIPTOR, blobs.BlobMethods(operations)),
            Service(components.DESCRIPTOR, components.ComponentsMethods(operations)),
            Service(tasks.DESCRIPTOR, tasks.TasksMethods(operations, self.bridge, discovery, assignments)),
            Service(orchestrator.DESCRIPTOR, orchestrator.OrchestratorMethods(operations, self.bridge, discovery)),
            Service(health.DESCRIPTOR, health.HealthMethods(operations)),
            Service(gateway.DESCRIPTOR, gateway.GatewayMethods(operations)),
            Service(events.DESCRIPTOR, events.EventMethods(operations)),
            Service(admin.DESCRIPTOR, admin.AdminMethods(operations)),
            Service(work.DESCRIPTOR, work.WorkMethods(self.bridge, operations)),
        ]
        names = [service.descriptor.full_name for service in services]
        self._health = health.StandardHealthMethods(names)
        services += [Service(health.STANDARD, self._health), reflection.service([*names, health.STANDARD.full_name])]
        self._server = grpc.aio.server(options=serving.options(settings.limits))
        serving.add(self._server, services, settings.limits, operations.streams)
        self._http = HttpServing(application(operations), settings.limits)
        self._folder = tempfile.TemporaryDirectory(prefix="stepmesh-gateway-", ignore_cleanup_errors=True)
        limits = settings.limits
        self._port = Port(
            self._http.protocol,
            lambda: len(self._http.state.connections),
            f"{self._folder.name}/grpc.sock",
            limits.connections,
            refusal_bytes(too_many_connections(limits.connections)),
            limits.arrival_s,
        )

    async def __aenter__(self) -> Gateway:
        """`start`."""
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """`stop`."""
        await self.stop()

    async def start(self) -> None:
        """Returns when the ports answer. Raises `PortTaken`; nothing is left open then."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        host = self.settings.host
        self._server.add_insecure_port(f"unix:{self._port.grpc_path}")
        if self.settings.grpc_port is not None:
            self.grpc_port = self._add_grpc_port(host, self.settings.grpc_port)
        await self.bridge.start()
        await self._server.start()
        self.port = await (self._port.take(self._sockets) if self._sockets else self._port.listen(host, self.settings.port))
        for queue in self._queues:
            queue.start()

    def _add_grpc_port(self, host: str, port: int) -> int:
        try:
            return self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as problem:
            raise port_taken(host, port, "it is in use, or not of this machine") from problem

    @property
    def address(self) -> str:
        """`host:port` that workers are told to answer to."""
        if self.settings.advertised:
            return self.settings.advertised
        host = "127.0.0.1" if self.settings.host in _EVERY_INTERFACE else self.settings.host
        return f"{host}:{self.grpc_port or self.port}"

    @property
    def ended(self) -> asyncio.Future[None]:
        """Gets an exception when a part of the gateway fails in a way that no retry mends: its process should end then."""
        return self.bridge.ended

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse new calls, end streams and waits, let what else runs end within `drain_s` (default: the settings' drain time), then
        end it."""
        patience = self.settings.drain_s if drain_s is None else drain_s
        ends = asyncio.get_running_loop().time() + patience
        self._health.stop()
        self.operations.close()
        try:
            await asyncio.gather(*(queue.stop() for queue in self._queues))
            await self.bridge.stop(patience)  # workers bring what they have begun, over new connections too
        finally:
            self._port.close()
            left = max(_CLOSING_S, ends - asyncio.get_running_loop().time())
            await asyncio.gather(self._http.stop(left), self._server.stop(left))
            await self._port.cut()
            self._folder.cleanup()
