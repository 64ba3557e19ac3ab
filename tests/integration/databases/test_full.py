"""Journals and the store on a server without space: refused as retryable, reads go on, and so do writes when there is space again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from redis import Redis
from tests.contract.journals.registry import fresh
from tests.contract.test_store import P as STORE_P
from tests.contract.test_store import item_row, run_row
from tests.integration.databases.conftest import Journals
from tests.services.postgres import USER, PostgresServer
from tests.services.redis import RedisServer

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.inspect import Inspectable, verify
from stepmesh_orchestrator.ports import Journal, JournalError, JournalFull, Snapshot
from stepmesh_orchestrator.store import StoreFull
from stepmesh_orchestrator.store.postgres import PostgresStore

P = Partition(0)
TRIGGER = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE='53100'; END $$"""


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """8 MB that PostgreSQL may write to; None where nobody may mount them: a trigger that raises its error stands for that."""
    with TemporaryDirectory(prefix="stepmesh-disk-") as folder:
        Path(folder).chmod(0o755)
        disk = Path(folder) / "disk"
        disk.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "stepmesh-test", str(disk)], capture_output=True, check=False
        ).returncode:
            yield None
            return
        shutil.chown(disk, USER)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def small_tables(server: PostgresServer, disk: Path | None) -> Iterator[None]:
    """New tables of this server lie on the small disk."""
    if disk is None:
        yield
        return
    name = f"small_{fresh()}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'".encode())
        admin.execute(f"ALTER DATABASE stepmesh SET default_tablespace={name}".encode())
        try:
            yield
        finally:
            admin.execute("ALTER DATABASE stepmesh RESET default_tablespace")
            for (schema,) in admin.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tablespace=%s", (name,)).fetchall():
                admin.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
            admin.execute(f"DROP TABLESPACE {name}".encode())


@contextmanager
def full(server: PostgresServer, disk: Path | None, schema: str, *tables: str) -> Iterator[None]:
    """While it lasts there is little space, or none."""
    if disk is not None:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(5_000_000))
        yield
        ballast.unlink()
        return
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f'SET search_path TO "{schema}"'.encode())
        admin.execute(TRIGGER)
        for table in tables:
            admin.execute(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION full_disk()".encode())
        yield
        admin.execute("DROP FUNCTION full_disk CASCADE")


async def append_until_full(journal: Journal, epoch: int, sequence: int) -> int:
    """The sequence of the frame that found no room."""
    with pytest.raises(JournalFull) as raised:  # noqa: PT012 -- any of them may be the one
        for number in range(sequence, sequence + 2000):
            sequence = number
            await journal.append(P, epoch, number, bytes(20_000))
    assert raised.value.code == "SM-4003"
    return sequence


async def survives(journal: Inspectable, epoch: int) -> int:
    """The sequence that is refused in the end: what a Redis server has of its memory for others goes up and down by some frames."""
    refused = await append_until_full(journal, epoch, 1)
    for _ in range(3):
        again = await append_until_full(journal, epoch, refused)
        assert again >= refused
        refused = again
    with pytest.raises(JournalFull):
        await journal.save_snapshot(P, epoch, Snapshot(refused - 1, bytes(5_000_000)))
    assert [frame.sequence async for frame in journal.read(P)] == list(range(1, refused))  # reading goes on
    return refused


async def goes_on(journal: Inspectable, epoch: int, refused: int) -> None:
    for sequence in range(refused, refused + 5):
        await journal.append(P, epoch, sequence, bytes(20_000))
    assert [frame.sequence async for frame in journal.read(P)] == list(range(1, refused + 5))
    assert (await verify(journal, P)).good


async def test_a_full_disk_of_postgresql_is_waited_out(own_postgres: PostgresServer) -> None:
    with small_disk() as disk, small_tables(own_postgres, disk):
        journals = Journals(own_postgres)
        journal = await journals.connect()
        store = PostgresStore(own_postgres.url, journals.namespace)
        await store.open()
        epoch = (await journal.acquire(P, "a")).epoch
        rows = [item_row("r", number, bytes(range(256)) * 80) for number in range(1000)]
        with full(own_postgres, disk, f"stepmesh_{journals.namespace}", "frames", "snapshots", "items"):
            refused = await survives(journal, epoch)
            with pytest.raises(StoreFull) as raised:
                await store.project(STORE_P, 1, [run_row("r")], rows)
            assert raised.value.retryable
            assert await store.projected(STORE_P) == 0
        await goes_on(journal, epoch, refused)
        await store.project(STORE_P, 1, [run_row("r")], rows[:10])
        assert len(await store.get_items(rows[0].run)) == 10
        await store.close()
        await journal.close()


async def test_a_redis_server_without_memory_is_waited_out(own_redis: RedisServer) -> None:
    journal = await Journals(own_redis).connect()
    epoch = (await journal.acquire(P, "a")).epoch
    with Redis.from_url(own_redis.url) as admin:
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"]) + 2_000_000)
        refused = await survives(journal, epoch)
        admin.config_set("maxmemory", 0)
    await goes_on(journal, epoch, refused)
    await journal.close()


async def test_a_redis_server_that_would_throw_frames_away_is_refused(own_redis: RedisServer) -> None:
    with Redis.from_url(own_redis.url) as admin:
        admin.config_set("maxmemory", 1_000_000_000)
        admin.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(JournalError, match="allkeys-lru") as raised:
            await Journals(own_redis).connect()
        assert raised.value.code == "SM-4030"
        admin.config_set("maxmemory-policy", "volatile-lru")  # ours have no time to live
        await (await Journals(own_redis).connect()).close()
        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("maxmemory", 0)  # no limit, so nothing to make room for
        await (await Journals(own_redis).connect()).close()
        admin.config_set("maxmemory-policy", "noeviction")
