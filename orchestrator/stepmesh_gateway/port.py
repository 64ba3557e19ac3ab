"""One port for gRPC and HTTP: the first bytes of a connection say which it is.

HTTP/2 goes, byte for byte, to the gRPC server behind a socket of this process; anything else is handed to the HTTP protocol, on the same
transport. Invariant: no side is read faster than the other side writes, and every connection is counted until it is closed. It must
know neither protocol beyond the four bytes with which HTTP/2 begins (RFC 9113, section 3.4).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

from stepmesh_broker.errors import StepmeshError

PREFACE = b"PRI "
"""No HTTP/1.1 method begins so."""
BACKLOG = 1_024


class PortTaken(StepmeshError):
    """The port cannot be opened."""

    default_code = "SM-7111"


def port_taken(host: str, port: int, reason: str) -> PortTaken:
    """The error for a port of `host`."""
    return PortTaken(f"port {port} of {host} cannot be opened: {reason}", hint="name another port, or stop what uses it")


class Port:
    """`http` makes the protocol of a connection, `http_open` says how many of them live; `grpc_path` is a Unix socket. `refusal`: what a
    connection above `connections` is told; `silent_s`: how long one may say nothing at its beginning."""

    def __init__(
        self,
        http: Callable[[], asyncio.Protocol],
        http_open: Callable[[], int],
        grpc_path: str,
        connections: int,
        refusal: bytes,
        silent_s: float,
    ) -> None:
        self.http = http
        self.grpc_path = grpc_path
        self.silent_s = silent_s
        self.refusal = refusal
        self.undecided: set[_FirstBytes] = set()
        self.relayed: set[_Side] = set()
        self._http_open = http_open
        self._limit = connections
        self._servers: list[asyncio.Server] = []
        self._gone: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """Connections now."""
        return len(self.undecided) + len(self.relayed) + self._http_open()

    @property
    def full(self) -> bool:
        """No connection more."""
        return self.open >= self._limit

    async def listen(self, host: str, port: int) -> int:
        """Returns the port; 0 is any free one, the same on every address of `host`. Raises `PortTaken`."""
        try:
            server = await self._serve(host, port)
            while port == 0 and len({one.getsockname()[1] for one in server.sockets}) > 1:
                chosen = server.sockets[0].getsockname()[1]
                server.close()
                server = await self._serve(host, chosen)
        except OSError as problem:
            raise port_taken(host, port, problem.strerror or str(problem)) from problem
        self._servers = [server]
        return cast(int, server.sockets[0].getsockname()[1])

    async def take(self, sockets: Sequence[socket.socket]) -> int:
        """Listen where somebody has bound already; returns the port."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._servers.append(await loop.create_server(lambda: _FirstBytes(self), sock=one, backlog=BACKLOG))
        return cast(int, sockets[0].getsockname()[1])

    async def _serve(self, host: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _FirstBytes(self), host or None, port, backlog=BACKLOG)

    def close(self) -> None:
        """Accept no more, and end what has not said yet what it is."""
        for server in self._servers:
            server.close()
        for connection in list(self.undecided):
            connection.transport.abort()

    async def cut(self) -> None:
        """End what is relayed, after the gRPC server had its time. Returns when it is."""
        for side in list(self.relayed):
            side.transport.abort()
        if self.relayed:
            self._gone = asyncio.get_running_loop().create_future()
            await self._gone

    def forget(self, side: _Side) -> None:
        """A relayed connection is over."""
        self.relayed.discard(side)
        if self._gone is not None and not self.relayed and not self._gone.done():
            self._gone.set_result(None)


class _FirstBytes(asyncio.Protocol):
    """A connection until it is clear what it speaks."""

    transport: asyncio.Transport

    def __init__(self, port: Port) -> None:
        self._port = port
        self._seen = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._port.full:
            self.transport.write(self._port.refusal)
            self.transport.close()
            return
        self._port.undecided.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._port.silent_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._decided()

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            return
        self._seen += data
        if len(self._seen) < len(PREFACE) and PREFACE.startswith(self._seen):
            return
        self._decided()
        if self._seen.startswith(PREFACE):
            self._become(_Side(self._port))
        else:
            self._become(self._port.http())

    def eof_received(self) -> None:
        self.transport.close()

    def _decided(self) -> None:
        self._port.undecided.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _become(self, protocol: asyncio.Protocol) -> None:
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(self._seen)


class _Side(asyncio.Protocol):
    """One end of a relayed connection; the client's end makes the other, `client` is given to the gRPC server's."""

    transport: asyncio.Transport

    def __init__(self, port: Port, client: _Side | None = None) -> None:
        self._port = port
        self._other = client
        self._of_server = client is not None
        self._early: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._of_server:
            self._port.relayed.add(self)
            self.transport.pause_reading()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_unix_connection(lambda: _Side(self._port, self), self._port.grpc_path)
        except OSError:  # the gRPC server is gone: the gateway stops
            self.transport.abort()
            return
        if self.transport.is_closing():
            other.transport.close()
            return
        self._other = other
        other.transport.writelines(self._early)
        self._early.clear()
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.transport.write(data)

    def eof_received(self) -> bool:
        """A client that says no more may still listen; a gRPC server that ends is done with the connection."""
        if self._of_server or self._other is None:
            return False
        self._other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and not self._other.transport.is_closing():
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.forget(self)
        if self._other is not None:
            self._other.transport.close()
