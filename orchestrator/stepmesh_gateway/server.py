"""A gateway: the doors, opened in order and closed in reverse. Stateless; any number of them may run over one broker.

It meets all parts of the package and holds no rules of theirs.
"""

from __future__ import annotations

from types import TracebackType

import grpc.aio

from stepmesh_broker.ports import Broker
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc import blobs, components, flows, health, orchestrator, reflection, runs, serving, tasks
from stepmesh_gateway.rpc.discovery import Discovery
from stepmesh_gateway.rpc.serving import Service
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.work.bridge import Bridge

_EVERY_INTERFACE = frozenset({"0.0.0.0", "::", "[::]", ""})


class Gateway:
    """`async with Gateway(broker, settings) as gateway:`; `broker` is connected, and stays so. `port`: where it listens."""

    def __init__(self, broker: Broker, settings: GatewaySettings) -> None:
        self.settings = settings
        self.port = 0
        self.operations = operations = Operations(broker, settings)
        self.bridge = Bridge(broker, settings, operations.id)
        discovery = Discovery()
        services = [
            Service(runs.DESCRIPTOR, runs.RunsMethods(operations)),
            Service(flows.DESCRIPTOR, flows.FlowsMethods(operations)),
            Service(blobs.DESCRIPTOR, blobs.BlobMethods(operations)),
            Service(components.DESCRIPTOR, components.ComponentsMethods(operations)),
            Service(tasks.DESCRIPTOR, tasks.TasksMethods(operations, self.bridge, discovery, lambda: self.address)),
            Service(orchestrator.DESCRIPTOR, orchestrator.OrchestratorMethods(operations, self.bridge, discovery)),
            Service(health.DESCRIPTOR, health.HealthMethods(operations)),
        ]
        names = [service.descriptor.full_name for service in services]
        self._health = health.StandardHealthMethods(names)
        services += [Service(health.STANDARD, self._health), reflection.service([*names, health.STANDARD.full_name])]
        self._server = grpc.aio.server(options=serving.options(settings.limits))
        serving.add(self._server, services, settings.limits, operations.streams)

    async def __aenter__(self) -> Gateway:
        """`start`."""
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """`stop`."""
        await self.stop()

    async def start(self) -> None:
        """Returns when the port answers. Raises `RuntimeError` when it is taken."""
        self.port = self._server.add_insecure_port(f"{self.settings.host}:{self.settings.port}")
        await self.bridge.start()
        await self._server.start()

    @property
    def address(self) -> str:
        """`host:port` that workers are told to answer to."""
        if self.settings.advertised:
            return self.settings.advertised
        host = "127.0.0.1" if self.settings.host in _EVERY_INTERFACE else self.settings.host
        return f"{host}:{self.port}"

    async def stop(self) -> None:
        """Refuse new calls, let those that run end within the drain time, then end them."""
        self._health.stop()
        self.operations.close()
        await self.bridge.stop(self.settings.drain_s)
        await self._server.stop(self.settings.drain_s)
