"""What the PostgreSQL backends decide without a server: names, kinds of errors, what a commit survives."""

from __future__ import annotations

import psycopg
import pytest

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.journal.postgres import PostgresJournal, durability_of, survives_with
from stepmesh_orchestrator.journal.rules import JournalUnavailable
from stepmesh_orchestrator.ports import StaleOwner
from stepmesh_orchestrator.postgres import Fault, classify, describe, schema_name
from stepmesh_orchestrator.store.postgres_tables import key


def test_a_schema_has_the_namespace_s_name_as_long_as_that_fits() -> None:
    fits, one_over = "n" * 54, "n" * 55
    assert schema_name(Namespace("Team-a_1")) == "stepmesh_Team-a_1"
    assert schema_name(Namespace(fits)) == f"stepmesh_{fits}"
    assert len(schema_name(Namespace(one_over))) == 63
    assert schema_name(Namespace(one_over)).startswith(f"stepmesh_{'n' * 37}~")


def test_long_namespaces_that_begin_alike_have_schemas_of_their_own() -> None:
    names = {schema_name(Namespace("n" * 63 + end)) for end in "abc"}
    assert len(names) == 3
    assert {len(name) for name in names} == {63}


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        (("on", "on", "on", ""), "fsync"),
        (("on", "on", "local", ""), "fsync"),
        (("on", "on", "remote_apply", ""), "fsync"),
        (("off", "on", "on", ""), "process"),
        (("on", "off", "on", ""), "process"),
        (("on", "on", "off", ""), "process"),
        (("on", "on", "on", "ANY 1 (a, b)"), "replicated"),
        (("on", "on", "remote_write", "*"), "replicated"),
        (("on", "on", "local", "*"), "fsync"),
        (("on", "on", "off", "*"), "process"),
        (("off", "on", "local", "*"), "process"),
    ],
)
def test_durability_is_what_the_server_s_settings_say(settings: tuple[str, str, str, str], durability: str) -> None:
    assert durability_of(*settings) == durability


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("on", "on", "on", ""), "a crash and power loss, as long as the server's disk is whole"),
        (("on", "on", "local", "*"), "a crash and power loss, as long as the server's disk is whole"),
        (("on", "on", "on", "*"), "the loss of the server or of its standby, not of both"),
        (("on", "on", "off", "*"), "a crash or power loss of the server takes its last moments"),
        (("off", "on", "on", ""), "power loss of the server may take all of the database"),
        (("on", "off", "on", ""), "power loss of the server may take all of the database"),
    ],
)
def test_what_would_be_lost_is_said_in_words(settings: tuple[str, str, str, str], words: str) -> None:
    assert words in survives_with(*settings)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.errors.DiskFull(), Fault.FULL),
        (psycopg.errors.DataCorrupted(), Fault.CORRUPT),
        (psycopg.errors.IoError(), Fault.IO),
        (psycopg.errors.AdminShutdown(), Fault.AWAY),
        (psycopg.errors.QueryCanceled(), Fault.AWAY),
        (psycopg.errors.ReadOnlySqlTransaction(), Fault.AWAY),
        (psycopg.errors.TooManyConnections(), Fault.AWAY),
        (psycopg.errors.DeadlockDetected(), Fault.AWAY),
        (psycopg.errors.InvalidPassword(), Fault.DENIED),
        (psycopg.errors.InsufficientPrivilege(), Fault.DENIED),
        (psycopg.errors.UndefinedTable(), Fault.OTHER),
        (psycopg.OperationalError("connection refused"), Fault.AWAY),
        (psycopg.OperationalError('FATAL: password authentication failed for user "x"'), Fault.DENIED),
        (psycopg.OperationalError('FATAL: database "x" does not exist'), Fault.DENIED),
        (psycopg.InterfaceError("the connection is closed"), Fault.AWAY),
        (TimeoutError(), Fault.AWAY),
    ],
)
def test_errors_are_sorted_by_what_can_be_done(error: Exception, fault: Fault) -> None:
    message, hint = describe(error, "the journal")
    assert classify(error) is fault
    assert message.startswith(f"the journal: {fault.value}")
    assert hint


def test_a_key_is_the_text_itself_as_long_as_an_index_has_room() -> None:
    fits, one_over = "n" * 1000, "n" * 1001
    assert key(fits) == fits
    assert len(key(one_over).encode()) == 1000
    assert len({key(text) for text in (fits, one_over, one_over + "n", "é" * 501, "é" * 502)}) == 5


def test_a_password_is_not_shown() -> None:
    assert without_password("postgresql://me:secret@host:5432/db?sslmode=require") == "postgresql://me@host:5432/db"
    assert without_password("postgresql://host/db") == "postgresql://host/db"


async def test_a_closed_journal_says_so() -> None:
    journal = PostgresJournal("postgresql://127.0.0.1:1/nothing", Namespace("n"))
    with pytest.raises(JournalUnavailable, match="open it first"):
        await journal.partitions()


async def test_a_server_that_is_not_there_is_named_at_open() -> None:
    journal = PostgresJournal("postgresql://me:secret@127.0.0.1:1/db", Namespace("n"))
    with pytest.raises(JournalUnavailable, match=r"me@127\.0\.0\.1:1/db.*cannot be reached") as raised:
        await journal.open()
    assert "secret" not in str(raised.value)
    assert not isinstance(raised.value, StaleOwner)
    with pytest.raises(JournalUnavailable, match="open it first"):
        await journal.partitions()
