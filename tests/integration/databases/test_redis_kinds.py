"""The Redis journal on the kinds of servers that there are: with replicas, a cluster, a managed one that does not tell its settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis import Redis
from tests.contract.journals.registry import fresh
from tests.integration.databases.conftest import stopped
from tests.services.process import free_port
from tests.services.redis import RedisServer

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal import JournalFormatError, JournalUnavailable
from stepmesh_orchestrator.journal.inspect import verify
from stepmesh_orchestrator.journal.redis import RedisJournal, durability_of, survives_with
from stepmesh_orchestrator.membership.redis import RedisMembership
from stepmesh_orchestrator.ports import Member, Snapshot

P = Partition(3)
SYNCED = {"appendonly": "yes", "appendfsync": "always"}


@contextmanager
def started(*settings: str) -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="stepmesh-redis-") as folder, RedisServer(Path(folder), settings) as server:
        yield server


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def works(journal: RedisJournal) -> None:
    """On several partitions, each with snapshots and a trim."""
    for partition in map(Partition, range(5)):
        owner = await journal.acquire(partition, "a")
        for sequence in range(1, 11):
            await journal.append(partition, owner.epoch, sequence, b"frame %d" % sequence)
        await journal.save_snapshot(partition, owner.epoch, Snapshot(5, b"state"))
        await journal.trim(partition, 4)
        assert [frame.sequence async for frame in journal.read(partition, 4)] == list(range(5, 11))
        assert (await verify(journal, partition)).good
    assert await journal.partitions() == list(range(5))


@pytest.mark.parametrize(
    ("settings", "replicas", "is_cluster", "durability"),
    [
        ([SYNCED], 0, False, "fsync"),
        ([SYNCED, SYNCED], 0, True, "fsync"),
        ([SYNCED, {**SYNCED, "appendfsync": "everysec"}], 0, True, "process"),
        ([{**SYNCED, "appendonly": "no"}], 0, False, "process"),
        ([], 0, False, "process"),
        ([], 1, False, "replicated"),
        ([SYNCED], 1, False, "replicated"),
        ([SYNCED], 1, True, "process"),
    ],
)
def test_durability_is_what_the_servers_say(settings: list[dict[str, Any]], replicas: int, is_cluster: bool, durability: str) -> None:
    assert durability_of(settings, replicas, is_cluster) == durability


@pytest.mark.parametrize(
    ("settings", "replicas", "is_cluster", "words"),
    [
        ([SYNCED, SYNCED], 0, True, "a crash and power loss, as long as the server's disk is whole"),
        ([SYNCED, {**SYNCED, "appendfsync": "everysec"}], 0, True, "power loss of the server takes the last second or two"),
        ([{**SYNCED, "appendfsync": "no"}], 0, False, "power loss of the server takes what its system had not flushed"),
        ([{**SYNCED, "appendonly": "no"}], 0, False, "a restart of the server takes all since its last snapshot"),
        ([], 0, False, "which it does not tell"),
        ([SYNCED], 1, False, "the replica that takes over is the one that confirmed it"),
        ([SYNCED], 1, True, "unless a replica takes over"),
    ],
)
def test_what_would_be_lost_is_said_in_words(settings: list[dict[str, Any]], replicas: int, is_cluster: bool, words: str) -> None:
    assert words in survives_with(settings, replicas, is_cluster)


@contextmanager
def started_cluster() -> Iterator[RedisServer]:
    """Of one node, which waits until it has all slots."""
    with started("--appendfsync", "always", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with Redis.from_url(server.url) as admin:
            admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                time.sleep(0.05)
        yield server


async def test_more_calls_than_connections_wait_in_a_cluster_too() -> None:
    """A server that "cannot be reached" would end an owner, for nothing but much to do."""
    with started_cluster() as server:
        journal = RedisJournal(server.url, Namespace(fresh()), connections=2)
        await journal.open()
        try:
            partitions = [Partition(number) for number in range(24)]
            owners = [await journal.acquire(partition, "a") for partition in partitions]
            for sequence in (1, 2, 3):
                appends = (journal.append(at, owner.epoch, sequence, b"x") for at, owner in zip(partitions, owners, strict=True))
                assert await asyncio.gather(*appends, return_exceptions=True) == [None] * 24
        finally:
            await journal.close()


async def test_a_cluster_is_noticed_and_every_script_stays_in_one_slot() -> None:
    with started_cluster() as server:
        journal = RedisJournal(server.url, Namespace(fresh()))
        await journal.open()
        assert journal.durability == "fsync"
        await works(journal)
        await journal.close()
        membership = RedisMembership(server.url, Namespace(fresh()))
        await membership.open()
        assert await membership.take(P, "a", 60)
        assert (await membership.beat(Member("a", "1"), 60)).leases == {P: "a"}
        await membership.close()


async def test_an_append_waits_for_a_replica_and_fails_when_none_confirms() -> None:
    with started("--appendfsync", "no") as primary, started("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        with Redis.from_url(primary.url) as admin:
            await until(lambda: "state=online" in str(admin.execute_command("INFO replication", NEVER_DECODE=True)))
        namespace = Namespace(fresh())
        journal = RedisJournal(primary.url, namespace, timeout_s=1)
        await journal.open()
        assert journal.durability == "replicated"
        await works(journal)
        owner = await journal.acquire(P, "b")
        with stopped(replica), pytest.raises(JournalUnavailable, match="no replica confirmed frame 11"):
            await journal.append(P, owner.epoch, 11, b"here only")
        successor = await journal.acquire(P, "c")
        await journal.append(P, successor.epoch, successor.next_sequence, b"on both")
        await asyncio.to_thread(primary.kill)
        with Redis.from_url(replica.url) as admin:
            admin.execute_command("REPLICAOF NO ONE")
        other = RedisJournal(replica.url, namespace)
        await other.open()
        assert [frame.payload async for frame in other.read(P, 10)] == [b"here only", b"on both"]
        await journal.close()
        await other.close()


async def test_connections_to_a_primary_that_became_a_replica_are_given_up() -> None:
    with started() as server, started() as other, Redis.from_url(server.url, client_name="admin") as admin:
        journal = RedisJournal(server.url, Namespace(fresh()))
        await journal.open()
        owner = await journal.acquire(P, "a")
        admin.execute_command("REPLICAOF", "127.0.0.1", other.port)
        with pytest.raises(JournalUnavailable, match="read only replica"):
            await journal.append(P, owner.epoch, 1, b"x")
        await until(lambda: [client for client in admin.client_list("normal") if client["name"] != "admin"] == [])
        admin.execute_command("REPLICAOF NO ONE")
        assert (await journal.acquire(P, "b")).next_sequence == 1
        await journal.close()


async def test_a_server_that_does_not_tell_its_settings_is_taken_as_the_weakest() -> None:
    with started("--appendfsync", "always", "--rename-command", "CONFIG", "") as server:
        journal = RedisJournal(server.url, Namespace(fresh()))
        await journal.open()
        assert journal.durability == "process"
        await works(journal)
        await journal.close()


async def test_a_user_who_may_only_do_what_a_journal_needs_can_have_one(redis_url: str) -> None:
    namespace = Namespace(fresh())
    hashes, streams = "+hmget +hset +hget +hgetall +hkeys +hdel +hincrby +hsetnx", "+xadd +xrange +xrevrange +xtrim"
    allowed = f"+ping +eval +evalsha +exists +sadd +smembers {hashes} {streams}"
    server = redis_url.removeprefix("redis://").rpartition("@")[2]
    with Redis.from_url(redis_url) as admin:
        admin.execute_command("ACL SETUSER", namespace, "on", ">secret", f"~stepmesh:{{{namespace}*", *allowed.split())
        journal = RedisJournal(f"redis://{namespace}:secret@{server}", namespace)
        await journal.open()
        assert journal.durability == "process"
        await works(journal)
        await journal.close()
        with pytest.raises(JournalUnavailable, match="refuses this user") as raised:
            await RedisJournal(f"redis://{namespace}:wrong@{server}", namespace).open()
        assert "wrong" not in raised.value.message.replace("WRONGPASS", "")
        admin.execute_command("ACL DELUSER", namespace)


async def test_scripts_that_a_server_forgot_are_sent_again(redis_url: str) -> None:
    journal = RedisJournal(redis_url, Namespace(fresh()))
    await journal.open()
    owner = await journal.acquire(P, "a")
    for sequence in (1, 2, 3):
        with Redis.from_url(redis_url) as admin:
            admin.script_flush()
        await journal.append(P, owner.epoch, sequence, b"x")
    assert [frame.sequence async for frame in journal.read(P)] == [1, 2, 3]
    await journal.close()


async def test_another_format_is_refused(redis_url: str) -> None:
    namespace = Namespace(fresh())
    journal = RedisJournal(redis_url, namespace)
    await journal.open()
    await journal.close()
    with Redis.from_url(redis_url) as admin:
        admin.hset(f"stepmesh:{{{namespace}}}:journal", "format", "99")
    with pytest.raises(JournalFormatError, match="format 99"):
        await journal.open()


async def test_batches_of_a_read_shrink_when_frames_are_large(redis_url: str) -> None:
    journal = RedisJournal(redis_url, Namespace(fresh()))
    await journal.open()
    owner = await journal.acquire(P, "a")
    payloads = [bytes([sequence]) * (900_000 if 20 < sequence < 40 else 10) for sequence in range(1, 91)]
    for sequence, payload in enumerate(payloads, 1):
        await journal.append(P, owner.epoch, sequence, payload)
    assert [frame.payload async for frame in journal.read(P)] == payloads
    await journal.close()
