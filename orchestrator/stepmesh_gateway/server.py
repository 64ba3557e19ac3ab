"""A gateway: the doors, opened in order and closed in reverse. Stateless; any number of them may run over one broker.

It meets all parts of the package and holds no rules of theirs.
"""

from __future__ import annotations

from types import TracebackType

import grpc.aio

from stepmesh_broker.ports import Broker
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc import gateway, serving
from stepmesh_gateway.rpc.serving import Service
from stepmesh_gateway.settings import GatewaySettings


class Gateway:
    """`async with Gateway(broker, settings) as gateway:`; `broker` is connected, and stays so. `port`: where it listens."""

    def __init__(self, broker: Broker, settings: GatewaySettings) -> None:
        self.settings = settings
        self.port = 0
        self._operations = Operations(broker, settings)
        limit = settings.limits.message_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.max_metadata_size", settings.limits.header_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )

    async def __aenter__(self) -> Gateway:
        """`start`."""
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """`stop`."""
        await self.stop()

    async def start(self) -> None:
        """Returns when the port answers. Raises `RuntimeError` when it is taken."""
        serving.add(self._server, [Service(gateway.DESCRIPTOR, gateway.GatewayMethods(self._operations))])
        self.port = self._server.add_insecure_port(f"{self.settings.host}:{self.settings.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new calls, let those that run end within the drain time, then end them."""
        await self._server.stop(self.settings.drain_s)
