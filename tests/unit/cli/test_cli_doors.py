"""The gateway's port is had before it is needed, and nobody else gets it meanwhile."""

from __future__ import annotations

import asyncio
import socket

import pytest

from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.doors import held, started
from stepmesh_gateway.port import PortTaken
from stepmesh_gateway.settings import GatewaySettings


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_port_that_is_held_is_nobody_elses() -> None:
    port = free_port()
    with held("127.0.0.1", port) as mine:
        assert [one.getsockname()[1] for one in mine] == [port]
        with held("127.0.0.1", port) as other:
            assert other == ()
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
    with held("127.0.0.1", port) as again:
        assert len(again) == 1


def test_every_address_of_a_host_is_held_or_none() -> None:
    port = free_port()
    with held("localhost", port) as mine:
        assert {one.getsockname()[1] for one in mine} == {port}
        assert len({one.family for one in mine}) == len(mine)
    with socket.create_server(("127.0.0.1", port)), held("localhost", port) as none:
        assert none == ()


def test_what_is_no_address_of_this_machine_is_not_held() -> None:
    with held("no.such.host.invalid", free_port()) as none:
        assert none == ()


async def test_a_gateway_serves_on_what_was_held_and_who_came_early_is_answered() -> None:
    port, namespace = free_port(), Namespace("n")
    broker = MemoryBroker(MemoryBus(), namespace)
    await broker.connect()
    with held("127.0.0.1", port) as mine:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        gateway = await started(broker, GatewaySettings(namespace=namespace, port=1), mine)
        try:
            assert gateway.port == port
            async with asyncio.timeout(20):
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(PortTaken):
                await started(broker, GatewaySettings(namespace=namespace, port=port))
        finally:
            writer.close()
            await writer.wait_closed()
            await gateway.stop(0.0)
            await broker.close()
