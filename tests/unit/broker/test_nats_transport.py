"""What only the NATS backend has: standing requests that are given back, races to make streams, life after a reconnect."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from nats.aio.client import Client

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MessageTooLarge
from stepmesh_broker.nats import NatsBroker, NatsSettings, find_nats_server
from stepmesh_broker.nats.connection import Connection
from stepmesh_broker.nats.transport import HEADER_ROOM
from stepmesh_broker.nats.wire import Wire
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject

POOL = Pool("cpu")
P = Partition(0)


@pytest.fixture
def settings(nats_url: str) -> NatsSettings:
    return NatsSettings(url=nats_url, namespace=Namespace(f"t{uuid.uuid4().hex[:12]}"), ack_wait_s=30)


@pytest.fixture
async def broker(settings: NatsSettings) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(settings)
    await made.connect()
    yield made
    await made.close()


@pytest.fixture
async def admin(nats_url: str) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(nats_url)
    yield client
    await client.close()


async def test_a_busy_consumer_gives_its_standing_request_back(broker: NatsBroker) -> None:
    busy, idle = await broker.tasks(POOL), await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"0", "0")
    (first,) = await busy.fetch(8, 10)  # seven more may come, but it does not fetch again
    for number in range(1, 8):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    got: set[bytes] = set()
    while len(got) < 7:
        got |= {delivery.data for delivery in await idle.fetch(8, 10)}
    assert got == {b"%d" % number for number in range(1, 8)}
    await first.ack()


async def test_a_consumer_with_less_room_gives_the_rest_back(broker: NatsBroker) -> None:
    narrow, wide = await broker.tasks(POOL), await broker.tasks(POOL)
    assert list(await narrow.fetch(8, 0.02)) == []
    waiting = asyncio.ensure_future(narrow.fetch(1, 10))
    await asyncio.sleep(0)
    for number in range(8):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    mine = [delivery.data for delivery in await waiting]
    others: list[bytes] = []
    while len(others) < 7:
        others += [delivery.data for delivery in await wide.fetch(8, 10)]
    assert len(mine) == 1
    assert sorted(mine + others) == [b"%d" % number for number in range(8)]


async def test_many_processes_may_make_the_streams_at_once(settings: NatsSettings) -> None:
    brokers = [NatsBroker(settings) for _ in range(12)]
    await asyncio.gather(*(broker.connect() for broker in brokers))
    positions = await asyncio.gather(*(broker.publish_tasks(POOL, b"x", f"{index}") for index, broker in enumerate(brokers)))
    posts = await asyncio.gather(*(broker.post(P, b"x") for broker in brokers))
    lives = set(await asyncio.gather(*(broker.incarnation() for broker in brokers)))
    sources = await asyncio.gather(*(broker.tasks(POOL) for broker in brokers))
    assert sorted(positions) == list(range(1, 13))
    assert len(set(posts)) == 12
    assert len(lives) == 1
    got = 0
    while got < 12:
        got += len(await sources[0].fetch(12, 10))
    await asyncio.gather(*(broker.close() for broker in brokers))


async def test_a_deleted_task_stream_is_made_again_by_whoever_fetches(broker: NatsBroker, settings: NatsSettings, admin: Client) -> None:
    source = await broker.tasks(POOL)
    life = await broker.incarnation()
    waiting = asyncio.ensure_future(source.fetch(1, 60))
    await asyncio.sleep(0.02)
    await admin.jetstream().delete_stream(f"stepmesh_{settings.namespace}_tasks")
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await waiting
    assert delivery.data == b"x"
    assert await broker.incarnation() != life


async def test_a_deleted_inbox_stream_is_made_again_by_its_reader(broker: NatsBroker, settings: NatsSettings, admin: Client) -> None:
    inbox = await broker.inbox(P, Position(0))
    first = await broker.post(P, b"1")
    await inbox.fetch(1, 10)
    await admin.jetstream().delete_stream(f"stepmesh_{settings.namespace}_inbox")
    assert await broker.post(P, b"2") > first
    assert [entry.data for entry in await inbox.fetch(1, 60)] == [b"2"]


async def test_messages_of_megabytes_pass_up_to_the_servers_limit(broker: NatsBroker) -> None:
    limit = broker.max_message_bytes
    assert limit == 32 * 1024 * 1024 - HEADER_ROOM
    inbox = await broker.inbox(P, Position(0))
    whole = b"x" * limit
    await broker.post(P, whole, "i" * 200)
    (entry,) = await inbox.fetch(1, 30)
    assert entry.data == whole
    with pytest.raises(MessageTooLarge):
        await broker.post(P, whole + b"x")


async def test_a_message_id_cannot_break_out_of_its_header(broker: NatsBroker) -> None:
    for message_id in ("a\r\nNats-Rollup: all", "a\nb", "a\0"):
        with pytest.raises(BrokerError) as caught:
            await broker.publish_tasks(POOL, b"x", message_id)
        assert caught.value.code == "SM-3004"
    for subject in ("a b", "a\r\nPING", ""):
        with pytest.raises(BrokerError) as caught:
            await broker.send(Subject(subject), b"x")
        assert caught.value.code == "SM-3004"


async def test_small_messages_are_not_held_back(settings: NatsSettings) -> None:
    connection = Connection(settings)
    await connection.connect()
    transport = connection.wire._transport  # pyright: ignore[reportPrivateUsage]  # nats-py does not show its socket
    assert transport is not None
    sock = transport._io_writer.get_extra_info("socket")  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    await connection.close()


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = NatsBroker(NatsSettings(url=f"nats://me:secret@127.0.0.1:{port}", connect_timeout_s=0.2))
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    await broker.close()


async def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(str(find_nats_server()), "-a", "127.0.0.1", "-p", str(port), "-l", str(tmp_path / "log"))
    try:
        with pytest.raises(BrokerUnavailable, match="no JetStream"):
            await NatsBroker(NatsSettings(url=f"nats://127.0.0.1:{port}")).connect()
    finally:
        server.terminate()
        await server.wait()


async def test_closing_a_connection_that_was_lost_just_now_raises_nothing(settings: NatsSettings) -> None:
    made = NatsBroker(settings)
    await made.connect()
    wire = made._connection.wire
    transport = wire._transport

    class Lost:
        """uvloop's: closed by the other side, which nats-py has not seen yet."""

        def __getattr__(self, name: str) -> object:
            return getattr(transport, name)

        def writelines(self, payload: list[bytes]) -> None:
            transport.close()
            raise RuntimeError("the handler is closed")

    wire._transport = Lost()  # type: ignore[assignment]  # the two calls that matter
    wire.put(b"PING\r\n")
    await wire.close()
    assert wire.is_closed


async def test_a_connection_outlives_a_flush_that_was_given_up(settings: NatsSettings) -> None:
    """After a slow answer, or because its caller was cancelled: what comes in afterwards is still read."""
    connection = Connection(settings)
    await connection.connect()
    try:
        given_up = 0
        for turns in range(1, 6):
            flushing = asyncio.create_task(connection.wire.flush(timeout=2))
            for _ in range(turns):
                await asyncio.sleep(0)
            given_up += flushing.cancel()
            await asyncio.wait([flushing])
        assert given_up
        async with asyncio.timeout(5):
            await connection.wire.flush(timeout=4)
            assert (await connection.wire.request("$JS.API.INFO", b"", 4)).data
    finally:
        await connection.close()


class Greeter:
    """A server that hangs up on the first connections before it says anything, greets the later ones, and keeps what it hears to itself."""

    def __init__(self, rude: int) -> None:
        self.rude = rude
        self.connections: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        if len(self.connections) <= self.rude:
            writer.close()
            return
        writer.write(b'INFO {"server_id": "x", "version": "2.11.0", "max_payload": 1048576, "headers": true}\r\n')
        while (line := await reader.readline()) != b"PING\r\n":
            assert line, "it hung up"
        writer.write(b"PONG\r\n")


def transport_of(wire: Wire) -> asyncio.Transport:
    writer = wire._transport._io_writer  # type: ignore[union-attr]
    return cast(asyncio.Transport, writer.transport)


async def test_a_connection_whose_greeting_failed_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[asyncio.Transport] = []
    wire = Wire()
    connect = Client._connect_to_server

    async def watched(client: Client, server: Any) -> None:
        await connect(client, server)
        seen.append(transport_of(wire))

    monkeypatch.setattr(Client, "_connect_to_server", watched)
    async with Greeter(rude=2) as url:
        await wire.connect(url, reconnect_time_wait=0.01, max_reconnect_attempts=10)
        assert [transport.is_closing() for transport in seen] == [True, True, False]
        await wire.close()
    assert seen[-1].is_closing()


async def test_a_connection_is_hung_up_although_its_last_words_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepmesh_broker.nats.wire._CLOSE_S", 0.2)
    wire = Wire()
    async with Greeter(rude=0) as url:
        await wire.connect(url, allow_reconnect=False)
        transport = transport_of(wire)
        wire.put(b"PUB x %d\r\n%b\r\n" % (64 << 20, bytes(64 << 20)))  # the server stands still: nobody reads it
        await wire.close()
        assert transport.is_closing()
        transport.abort()


async def test_who_closes_while_it_is_connected_again_stays_closed() -> None:
    wire = Wire()
    async with Greeter(rude=0) as url:
        await wire.connect(url, reconnect_time_wait=0.01)
        await wire.close()
        with pytest.raises(asyncio.CancelledError):
            await wire._connect_to_server(wire._current_server)
        assert transport_of(wire).is_closing()
