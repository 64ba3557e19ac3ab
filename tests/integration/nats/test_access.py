"""Who gets in, and over which kind of connection: TLS with an authority of one's own, certificates of clients, users, credentials files."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.integration.nats.credentials import Operator
from tests.services.certificates import Authority
from tests.services.nats import NatsServers

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject

P = Partition(0)
PASSWORD = "p@ss,word"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(Path(tmp_path_factory.mktemp("authority")))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[NatsServers]:
    """Three nodes that want TLS, a certificate of the client and a user."""
    server = authority.sign("server")
    narrow = 'publish: ["free.>", "_INBOX.>", "$JS.API.>"], subscribe: ["free.>", "_INBOX.>"]'
    settings = (
        f'tls {{ cert_file: "{server.cert}", key_file: "{server.key}", ca_file: "{authority.file}", verify: true }}',
        f'authorization {{ users: [ {{ user: "me", password: "{PASSWORD}" }}, '
        f'{{ user: "narrow", password: "x", permissions {{ {narrow} }} }} ] }}',
    )
    with NatsServers(Path(tmp_path_factory.mktemp("guarded")), 3, settings) as servers:
        yield servers


def url(servers: NatsServers, user: str, **options: object) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in servers.ports)
    return f"nats://{user}@{hosts}?" + "&".join(f"{name}={quote(str(value))}" for name, value in options.items())


def settings_of(address: str) -> NatsSettings:
    return NatsSettings.parse(address, Namespace(f"t{uuid.uuid4().hex[:12]}"), connect_timeout_s=1.5)


async def refused(address: str) -> str:
    broker = NatsBroker(settings_of(address))
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    return str(caught.value)


async def test_with_everything_right_it_works_and_goes_on_when_its_node_dies(guarded: NatsServers, authority: Authority) -> None:
    mine = authority.sign("client")
    broker = NatsBroker(
        settings_of(url(guarded, f"me:{quote(PASSWORD, safe='')}", tls="true", ca=authority.file, cert=mine.cert, key=mine.key))
    )
    await broker.connect()
    try:
        inbox = await broker.inbox(P, Position(0))
        for data in (b"0", b"1"):
            at = broker._connection.wire.connected_url
            assert at is not None
            number = guarded.ports.index(at.port)
            guarded.kill(number)
            try:
                await broker.post(P, data)
                read: set[bytes] = set()
                while data not in read:  # one that is not acknowledged comes again when its node dies
                    read |= {entry.data for entry in await inbox.fetch(1, 30)}
            finally:
                guarded.restart(number)
    finally:
        await broker.close()


async def test_a_server_of_another_authority_is_not_believed(guarded: NatsServers, authority: Authority, tmp_path: Path) -> None:
    other, mine = Authority(tmp_path, "other"), authority.sign("client")
    said = await refused(url(guarded, "me:x", ca=other.file, cert=mine.cert, key=mine.key))
    assert "certificate" in said.lower()


async def test_a_client_without_a_certificate_or_with_one_of_its_own_is_refused(
    guarded: NatsServers, authority: Authority, tmp_path: Path
) -> None:
    forged = Authority(tmp_path, "forged").sign("client")
    password = quote(PASSWORD, safe="")
    await refused(url(guarded, f"me:{password}", ca=authority.file))
    await refused(url(guarded, f"me:{password}", ca=authority.file, cert=forged.cert, key=forged.key))


async def test_a_wrong_password_is_refused_and_not_told(guarded: NatsServers, authority: Authority) -> None:
    mine = authority.sign("client")
    said = await refused(url(guarded, "me:wr0ng", ca=authority.file, cert=mine.cert, key=mine.key))
    assert "authorization violation" in said.lower()
    assert "wr0ng" not in said


async def test_a_password_is_not_sent_to_a_server_without_tls(nats_url: str) -> None:
    """nats-py would go on in the clear."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576,"auth_required":true}\r\n')
        heard.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    said = await refused(f"nats://me:secret@127.0.0.1:{port}?tls=true")
    assert "no TLS" in said
    assert b"".join(heard) == b""
    server.close()
    await server.wait_closed()
    assert "no TLS" in await refused(f"{nats_url}?tls=true")


async def test_a_server_that_never_shakes_hands_keeps_nobody() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576,"tls_required":true}\r\n')
        await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    broker = NatsBroker(NatsSettings.parse(f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_timeout_s=0.5))
    async with asyncio.timeout(30):
        with pytest.raises(BrokerUnavailable):
            await broker.connect()
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


async def test_what_a_user_may_not_do_is_said_at_once(guarded: NatsServers, authority: Authority) -> None:
    mine = authority.sign("client")
    broker = NatsBroker(settings_of(url(guarded, "narrow:x", ca=authority.file, cert=mine.cert, key=mine.key)))
    await broker.connect()

    async def nothing(data: bytes) -> bytes:
        return data

    for call in (
        broker.publish_tasks(Pool("cpu"), b"x", "1"),
        broker.post(P, b"x"),
        broker.request(Subject("closed.a"), b"x", 3600),
        broker.serve(Subject("closed.a"), nothing),
        broker.serve(Subject("closed.a"), nothing, "group"),
    ):
        async with asyncio.timeout(10):
            with pytest.raises(BrokerError) as caught:
                await call
        assert caught.value.code == "SM-3041"
    await broker.serve(Subject("free.a"), nothing)
    assert await broker.request(Subject("free.a"), b"x", 10) == b"x"
    await broker.close()


async def test_a_credentials_file_opens_an_account(tmp_path: Path) -> None:
    operator = Operator()
    good, bad = operator.user(tmp_path / "good.creds"), operator.user(tmp_path / "bad.creds", operator.stranger())
    with NatsServers(tmp_path / "server", 1, operator.settings) as servers:
        broker = NatsBroker(settings_of(f"{servers.url}?credentials={good}"))
        await broker.connect()
        await broker.publish_tasks(Pool("cpu"), b"x", "1")
        (delivery,) = await (await broker.tasks(Pool("cpu"))).fetch(1, 10)
        assert delivery.data == b"x"
        await broker.close()
        await refused(servers.url)
        assert "authorization violation" in (await refused(f"{servers.url}?credentials={bad}")).lower()
