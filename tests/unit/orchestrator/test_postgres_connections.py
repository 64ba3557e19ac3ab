"""What PostgreSQL connections do when nobody answers at the other end: over real sockets, without a PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stepmesh_orchestrator.postgres import Connection, PostgresConnections

PATIENCE_S = 20.0


class Away(Exception):
    """As a backend calls it."""


class Silent:
    """A server that takes connections and says nothing. `came` and `went`: so many."""

    def __init__(self) -> None:
        self.came = 0
        self.went = 0
        self._change = asyncio.Event()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        self._change.set()
        try:
            await reader.read()
        finally:
            writer.close()
        self.went += 1
        self._change.set()

    async def until(self, came: int, went: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (self.came, self.went) != (came, went):
                self._change.clear()
                await self._change.wait()


@pytest.fixture
async def silent() -> AsyncIterator[tuple[Silent, PostgresConnections]]:
    made = Silent()
    server = await asyncio.start_server(made.meet, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        yield made, PostgresConnections(f"postgresql://nobody@127.0.0.1:{port}/nothing", "any", lambda error: Away(str(error)), 4, 5.0)


async def nothing(connection: Connection) -> None:
    raise AssertionError("there is no connection")


async def test_who_stops_waiting_for_a_connection_leaves_no_socket_behind(silent: tuple[Silent, PostgresConnections]) -> None:
    """A server that crashed waits for all who knocked; what they think of their errors is not its business."""
    server, connections = silent
    for count in range(1, 4):
        opening = asyncio.create_task(connections.open(nothing))
        await server.until(count, count - 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await opening
        await server.until(count, count)
        assert kept.value.__traceback__ is not None, "it is still there"
