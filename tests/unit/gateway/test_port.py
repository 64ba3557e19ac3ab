"""One port: HTTP/2 reaches the gRPC server, everything else HTTP; neither side is read faster than the other writes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.gateway.door import until

from stepmesh_gateway.port import PREFACE, Port, PortTaken

H2 = PREFACE + b"* HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Heard(asyncio.Protocol):
    """What a server hears on one connection; `patient`: it has more to say when the client has not."""

    transport: asyncio.Transport

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.data = b""
        self.ended = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return self.patient

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Both:
    """A port whose two servers only listen."""

    def __init__(self, folder: Path, connections: int = 100, silent_s: float = 20.0, patient: bool = False) -> None:
        self.patient = patient
        self.http: list[Heard] = []
        self.grpc: list[Heard] = []
        self.port = Port(self._http, self._http_open, str(folder / "g"), connections, b"full", silent_s)
        self.number = 0
        self.writers: list[asyncio.StreamWriter] = []

    def _http(self) -> Heard:
        self.http.append(Heard())
        return self.http[-1]

    def _grpc(self) -> Heard:
        self.grpc.append(Heard(self.patient))
        return self.grpc[-1]

    def _http_open(self) -> int:
        return sum(not one.lost.is_set() for one in self.http)

    @asynccontextmanager
    async def open(self, with_grpc: bool = True) -> AsyncIterator[Both]:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._grpc, self.port.grpc_path) if with_grpc else None
        self.number = await self.port.listen("127.0.0.1", 0)
        try:
            yield self
        finally:
            self.port.close()
            for transport in [*(one.transport for one in [*self.http, *self.grpc]), *(writer.transport for writer in self.writers)]:
                transport.abort()
            await self.port.cut()
            await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)
            if server is not None:
                server.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        self.writers.append(writer)
        return reader, writer


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether nothing more comes, and the connection is over."""
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("piece", [1, 3, 4, 100])
async def test_http_2_goes_to_grpc_however_it_is_cut(tmp_path: Path, piece: int) -> None:
    async with Both(tmp_path).open() as both:
        reader, writer = await both.connect()
        sent = H2 + b"more"
        for start in range(0, len(sent), piece):
            writer.write(sent[start : start + piece])
            await writer.drain()
            await asyncio.sleep(0)
        await until(lambda: bool(both.grpc) and both.grpc[0].data == sent)
        both.grpc[0].transport.write(b"answer")
        assert await reader.read(100) == b"answer"
        assert both.http == []
        writer.close()
        await asyncio.wait_for(both.grpc[0].lost.wait(), 10)
        await until(lambda: both.port.open == 0)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"PR", b"PRINT /", b"PROPFIND", b"\x16\x03\x01", b"X"])
async def test_all_else_goes_to_http(tmp_path: Path, sent: bytes) -> None:
    async with Both(tmp_path).open() as both:
        reader, writer = await both.connect()
        writer.write(sent)
        if sent == b"PR":
            await until(lambda: both.port.open == 1)
            assert both.http == [], "it may still become either"
            writer.write(b"OPFIND")
        await until(lambda: bool(both.http) and both.http[0].data.startswith(sent))
        both.http[0].transport.write(b"answer")
        assert await reader.read(100) == b"answer"
        assert both.grpc == []


async def test_what_comes_while_the_other_side_is_connected_is_kept_in_order(tmp_path: Path) -> None:
    async with Both(tmp_path).open() as both:
        _, writer = await both.connect()
        body = bytes(range(256)) * 1000
        writer.write(H2 + body)
        await until(lambda: bool(both.grpc) and len(both.grpc[0].data) == len(H2 + body))
        assert both.grpc[0].data == H2 + body


async def test_one_side_may_end_before_the_other(tmp_path: Path) -> None:
    async with Both(tmp_path, patient=True).open() as both:
        reader, writer = await both.connect()
        writer.write(H2)
        writer.write_eof()
        await until(lambda: bool(both.grpc) and both.grpc[0].ended)
        both.grpc[0].transport.write(b"late answer")
        assert await reader.read(100) == b"late answer"
        both.grpc[0].transport.close()
        assert await reader.read() == b""
        await until(lambda: both.port.open == 0)


@pytest.mark.parametrize("slow", ["client", "server"])
async def test_a_side_that_does_not_read_stops_the_other(tmp_path: Path, slow: str) -> None:
    async with Both(tmp_path).open() as both:
        reader, writer = await both.connect()
        writer.write(H2)
        await until(lambda: bool(both.grpc) and both.grpc[0].data == H2)
        server = both.grpc[0]
        source: Callable[[bytes], None] = server.transport.write if slow == "client" else writer.write
        waiting: Callable[[], int] = server.transport.get_write_buffer_size if slow == "client" else writer.transport.get_write_buffer_size
        if slow == "server":
            server.transport.pause_reading()
        else:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # streams have real transports
        total, stalled = 0, 0
        while stalled < 20:
            before = waiting()
            if before < 1_000_000:
                source(b"x" * 1_000_000)
                total += 1_000_000
                stalled = 0
            await asyncio.sleep(0.005)
            stalled = stalled + 1 if waiting() == before else 0
        passed = total - waiting()
        assert passed < 16_000_000, "socket buffers and the relay's own, not all of it"
        if slow == "server":
            server.transport.resume_reading()
            await until(lambda: len(server.data) == len(H2) + total)
        else:
            writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            assert len(await reader.readexactly(total)) == total


async def test_a_connection_without_a_server_behind_it_is_closed(tmp_path: Path) -> None:
    async with Both(tmp_path).open(with_grpc=False) as both:
        reader, writer = await both.connect()
        writer.write(H2)
        assert await ends(reader)
        await until(lambda: both.port.open == 0)


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with Both(tmp_path, silent_s=0.2).open() as both:
        silent, _ = await both.connect()
        undecided, other = await both.connect()
        other.write(b"PRI")
        for reader in (silent, undecided):
            assert await ends(reader)
        assert both.http == both.grpc == []


@pytest.mark.parametrize("speaks", [b"", b"GET", H2])
async def test_connections_are_bounded_whatever_they_speak(tmp_path: Path, speaks: bytes) -> None:
    async with Both(tmp_path, connections=5).open() as both:
        writers: list[asyncio.StreamWriter] = []
        for _ in range(5):
            _, writer = await both.connect()
            writer.write(speaks)
            writers.append(writer)
        await until(lambda: both.port.open == 5)
        refused, _ = await both.connect()
        assert await asyncio.wait_for(refused.read(), 10) == b"full"
        writers[0].close()
        await until(lambda: both.port.open < 5)
        before = len(both.http)
        taken, again = await both.connect()
        again.write(b"GET")
        await until(lambda: len(both.http) > before)
        both.http[-1].transport.write(b"taken")
        assert await asyncio.wait_for(taken.read(10), 10) == b"taken"


@pytest.mark.parametrize("speaks", [b"GET", H2])
async def test_nothing_waits_for_more_to_send(tmp_path: Path, speaks: bytes) -> None:
    async with Both(tmp_path).open() as both:
        _, writer = await both.connect()
        writer.write(speaks)
        await until(lambda: bool(both.http or both.port.relayed))
        (accepted,) = both.http or both.port.relayed
        connection = accepted.transport.get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with Both(tmp_path).open() as both:
        other = Port(Heard, lambda: 0, "", 1, b"", 1.0)
        with pytest.raises(PortTaken, match=rf"SM-7111 port {both.number} of 127.0.0.1 cannot be opened: .+ \(name another port"):
            await other.listen("127.0.0.1", both.number)


async def test_every_address_of_a_host_has_the_same_port(tmp_path: Path) -> None:
    port = Port(Heard, lambda: 0, "", 10, b"", 1.0)
    number = await port.listen("localhost", 0)
    (server,) = port._servers  # pyright: ignore[reportPrivateUsage]
    assert {one.getsockname()[1] for one in server.sockets} == {number}
    port.close()
