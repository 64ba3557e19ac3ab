"""What only the journal in PostgreSQL has: settings that say what a commit survives, a schema that several open at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.contract.journals.postgres import drop_schema
from tests.contract.journals.registry import fresh

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal import JournalFormatError, JournalUnavailable
from stepmesh_orchestrator.journal.postgres import PostgresJournal
from stepmesh_orchestrator.ports import JournalCorrupt, JournalError

P = Partition(3)


@pytest.fixture
async def namespace(postgres_url: str) -> AsyncIterator[Namespace]:
    made = Namespace(fresh())
    yield made
    drop_schema(postgres_url, made)


@pytest.mark.parametrize(("setting", "durability"), [("on", "fsync"), ("local", "fsync"), ("off", "process")])
async def test_durability_follows_the_connection_s_settings(postgres_url: str, namespace: Namespace, setting: str, durability: str) -> None:
    journal = PostgresJournal(f"{postgres_url}?options=-c%20synchronous_commit%3D{setting}", namespace)
    assert journal.durability == "process"
    await journal.open()
    assert journal.durability == durability
    await journal.close()


async def test_several_that_open_at_once_make_one_journal(postgres_url: str, namespace: Namespace) -> None:
    journals = [PostgresJournal(postgres_url, namespace) for _ in range(8)]
    await asyncio.gather(*(journal.open() for journal in journals))
    owners = [await journal.acquire(P, "a") for journal in journals]
    assert [owner.epoch for owner in owners] == list(range(1, 9))
    assert len({owner.journal_id for owner in owners}) == 1
    await asyncio.gather(*(journal.close() for journal in journals))


async def test_an_owner_that_stands_still_inside_a_transaction_does_not_keep_its_successor_out(
    postgres_url: str, namespace: Namespace
) -> None:
    """A stopped process says nothing more, and closes nothing: its lock on the owner's row is the server's to take away."""
    stopped = PostgresJournal(postgres_url, namespace, timeout_s=0.5)
    successor = PostgresJournal(postgres_url, namespace)
    await stopped.open()
    await successor.open()
    try:
        assert (await stopped.acquire(P, "stopped")).epoch == 1
        connection = await stopped._connections._connect()
        await connection.execute("BEGIN")
        await connection.execute("SELECT 1 FROM owners WHERE partition=%s FOR UPDATE", (P,))
        assert (await successor.acquire(P, "successor")).epoch == 2
        await connection.close()
    finally:
        await stopped.close()
        await successor.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [("UPDATE migrations SET version=99", "version 99"), ("UPDATE journal SET format=99", "format 99")],
)
async def test_tables_of_another_release_are_refused(postgres_url: str, namespace: Namespace, change: str, message: str) -> None:
    journal = PostgresJournal(postgres_url, namespace)
    await journal.open()
    await journal.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'SET search_path TO "stepmesh_{namespace}"'.encode())
        connection.execute(change.encode())
    with pytest.raises(JournalFormatError, match=message) as raised:
        await journal.open()
    assert raised.value.hint
    with pytest.raises(JournalUnavailable, match="open it first"):
        await journal.partitions()


async def test_frames_without_their_owner_s_row_are_damage(postgres_url: str, namespace: Namespace) -> None:
    journal = PostgresJournal(postgres_url, namespace)
    await journal.open()
    owner = await journal.acquire(P, "a")
    await journal.append(P, owner.epoch, 1, b"x")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'DELETE FROM "stepmesh_{namespace}".owners'.encode())
    for call in (journal.acquire(P, "b"), journal.append(P, owner.epoch, 2, b"y"), anext(aiter(journal.read(P)))):
        with pytest.raises(JournalCorrupt, match="owner record is missing"):
            await call
    assert await journal.partitions() == [P]
    await journal.close()


async def test_a_schema_that_was_dropped_is_an_error_that_says_so(postgres_url: str, namespace: Namespace) -> None:
    journal = PostgresJournal(postgres_url, namespace)
    await journal.open()
    drop_schema(postgres_url, namespace)
    with pytest.raises(JournalError, match="owners") as raised:
        await journal.acquire(P, "a")
    assert not isinstance(raised.value, JournalUnavailable)
    await journal.close()


async def test_a_user_who_may_not_make_a_schema_can_use_one_that_is_there(postgres_url: str, namespace: Namespace) -> None:
    user, address = f"user_{namespace}", urlsplit(postgres_url).netloc.rpartition("@")[2]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE USER {user} PASSWORD 'secret'".encode())
        theirs = PostgresJournal(urlsplit(postgres_url)._replace(netloc=f"{user}:secret@{address}").geturl(), namespace)
        with pytest.raises(JournalUnavailable, match="refuses this user"):
            await theirs.open()
        admin.execute(f'CREATE SCHEMA "stepmesh_{namespace}" AUTHORIZATION {user}'.encode())
        await theirs.open()
        assert (await theirs.acquire(P, "a")).epoch == 1
        await theirs.close()
        admin.execute(f"DROP OWNED BY {user} CASCADE".encode())
        admin.execute(f"DROP USER {user}".encode())


async def test_namespaces_lie_apart(postgres_url: str) -> None:
    long = fresh() + "n" * 50
    names = [Namespace(fresh()), Namespace(long + "a"), Namespace(long + "b")]
    for name in names:
        journal = PostgresJournal(postgres_url, name)
        await journal.open()
        assert await journal.partitions() == []
        assert (await journal.acquire(P, "a")).epoch == 1
        await journal.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"stepmesh_{long[:20]}%",)).fetchall()
        assert len(found) == 2
        for (name,) in [*found, (f"stepmesh_{names[0]}",)]:
            connection.execute(f'DROP SCHEMA "{name}" CASCADE'.encode())
