"""Names of journals and stores → backends, and what is refused because it would contradict the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepmesh_cli.addresses import shown
from stepmesh_cli.errors import CommandError, StoreNotKept
from stepmesh_cli.storage import Storage, StorageSettings, storage_of
from stepmesh_orchestrator.journal import MemoryJournal, SqliteJournal
from stepmesh_orchestrator.store import MemoryStore, SqliteStore

DATA = Path("data")


def stored(journal: str, **others: Any) -> Storage:
    return storage_of(StorageSettings(journal=journal, **others), lambda: DATA)


def test_memory_is_memory() -> None:
    found = stored("memory")
    assert isinstance(found.journal, MemoryJournal)
    assert isinstance(found.store, MemoryStore)


@pytest.mark.parametrize(
    ("journal", "store", "files"),
    [
        ("sqlite", None, ("data/journal.db", "data/store.db")),
        ("sqlite:x.db", None, ("x.db", "x.store.db")),
        ("sqlite:y/journal.db", None, ("y/journal.db", "y/store.db")),
        ("sqlite", "sqlite:elsewhere.db", ("data/journal.db", "elsewhere.db")),
    ],
)
async def test_files_lie_where_they_were_named(
    journal: str, store: str | None, files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = stored(journal, store=store)
    assert isinstance(found.journal, SqliteJournal)
    assert isinstance(found.store, SqliteStore)
    for part in found.parts:
        await part.open()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.db")} == set(files)
    for part in found.parts:
        await part.close()


def test_the_journal_on_a_broker_in_memory_is_in_memory() -> None:
    assert isinstance(stored("broker").journal, MemoryJournal)


@pytest.mark.parametrize("journal", ["paper", "paper:x", "sqlite:", "rabbit://host"])
def test_what_is_no_journal_is_refused(journal: str) -> None:
    with pytest.raises(CommandError, match="is not a journal"):
        stored(journal, kept=False)


@pytest.mark.parametrize("store", ["paper", "sqlite:", "redis://host"])
def test_what_is_no_store_is_refused(store: str) -> None:
    with pytest.raises(CommandError, match="is not a store"):
        stored("sqlite", store=store)


def test_no_journal_lies_on_a_broker_that_keeps_none() -> None:
    with pytest.raises(CommandError, match="no journal lies on the broker ws://host"):
        stored("broker", broker="ws://me:secret@host")


def test_a_store_that_outlives_its_journal_is_refused() -> None:
    with pytest.raises(CommandError, match="outlive"):
        stored("memory", store="sqlite:x.db")


def test_a_store_in_memory_beside_a_journal_that_lasts_is_refused() -> None:
    with pytest.raises(StoreNotKept, match="after a restart") as caught:
        stored("sqlite", store="memory")
    assert (caught.value.code, "--store" in caught.value.hint) == ("SM-0152", True)


def test_several_machines_want_a_store_that_all_can_read() -> None:
    with pytest.raises(StoreNotKept, match="none is named"):
        stored("redis://:secret@host", shared=True)
    with pytest.raises(CommandError, match="cannot be shared"):
        stored("memory", shared=True)


@pytest.mark.parametrize(
    ("journal", "store", "membership"),
    [
        ("sqlite:x.db", None, "SqliteMembership"),
        ("redis://host", "sqlite:x.db", "RedisMembership"),
        ("postgresql://host/db", None, "PostgresMembership"),
        ("nats://a:1?replicas=3", "postgres://host/db", "JetStreamMembership"),
        ("kafka://a:1", "postgres://host/db", "KafkaMembership"),
    ],
)
def test_who_shares_is_kept_where_the_journal_is(journal: str, store: str | None, membership: str) -> None:
    assert type(stored(journal, store=store, shared=True).membership).__name__ == membership
    assert stored(journal, store=store).membership is None


@pytest.mark.parametrize(
    ("journal", "kinds"),
    [
        ("postgres://me:pw@host/db", ("PostgresJournal", "PostgresStore")),
        ("redis://host", ("RedisJournal", "SqliteStore")),
        ("nats://a:1,b:1,c:1", ("JetStreamJournal", "SqliteStore")),
        ("kafka://a:1,b:1", ("KafkaJournal", "SqliteStore")),
    ],
)
def test_servers_by_their_addresses(journal: str, kinds: tuple[str, str]) -> None:
    found = stored(journal)
    assert (type(found.journal).__name__, type(found.store).__name__) == kinds


@pytest.mark.parametrize(("broker", "journal"), [("nats://a:1", "JetStreamJournal"), ("kafka://a:1", "KafkaJournal")])
def test_the_journal_may_lie_on_the_broker(broker: str, journal: str) -> None:
    assert type(stored("broker", broker=broker).journal).__name__ == journal


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sqlite", "sqlite"),
        ("sqlite:a b.db", "sqlite:a b.db"),
        ("postgres://me:p/w?x@y@host/db?sslpassword=secret", "postgres://host/db"),
        ("nats://me:secret@a:1,nats://me:secret@b:2", "nats://b:2"),
        ("redis://:secret@host:6379/2", "redis://host:6379/2"),
        ("kafka://a:1,b:2?ca=f", "kafka://a:1,b:2"),
    ],
)
def test_no_password_is_shown(name: str, expected: str) -> None:
    assert shown(name) == expected
