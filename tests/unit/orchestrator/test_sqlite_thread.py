"""The thread under journal and store: what is answered was committed, each job has its own fate, a failed disk stops the writer."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from stepmesh_orchestrator.sqlite import Fault, SqliteThread, classify, connect, describe
from stepmesh_orchestrator.sqlite.thread import GROUP_LIMIT, Connection


class Translated(Exception):
    """What the tests make of SQLite's errors."""


def thread_on(path: Path, mode: Literal["read", "write"] = "write") -> SqliteThread:
    return SqliteThread("test", lambda: connect(path, 0.05), lambda error: Translated(classify(error).name), mode)


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[SqliteThread]:
    thread = thread_on(tmp_path / "test.db")
    await thread.start()
    await thread.call(lambda connection: connection.execute("CREATE TABLE t(x PRIMARY KEY)").rowcount)
    yield thread
    await thread.stop()


def insert(value: int) -> Callable[[Connection], int]:
    return lambda connection: connection.execute("INSERT INTO t VALUES(?)", (value,)).rowcount


def values(connection: Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


def failing(code: int, *before: int) -> Callable[[Connection], None]:
    """Insert some values, then fail as SQLite would with this result code."""

    def job(connection: Connection) -> None:
        for value in before:
            insert(value)(connection)
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = code
        raise error

    return job


class Held:
    """Keeps the thread busy until released, so that what is called meanwhile waits together."""

    def __init__(self, thread: SqliteThread) -> None:
        self._release = threading.Event()
        self.future = thread.call(lambda connection: self._release.wait(10))

    def release(self) -> None:
        self._release.set()


async def test_a_job_s_result_and_writes_are_there_after_its_answer(writer: SqliteThread, tmp_path: Path) -> None:
    assert await writer.call(insert(1)) == 1
    reader = thread_on(tmp_path / "test.db", "read")
    await reader.start()
    assert await reader.call(values) == [1]
    await reader.stop()


@pytest.mark.parametrize("count", [1, GROUP_LIMIT, GROUP_LIMIT + 1])
async def test_what_waits_is_committed_together_up_to_the_limit(writer: SqliteThread, count: int) -> None:
    transactions: list[str] = []
    await writer.call(lambda connection: connection.set_trace_callback(transactions.append))
    held = Held(writer)
    await asyncio.sleep(0)
    jobs = [writer.call(insert(value)) for value in range(count)]
    held.release()
    await asyncio.gather(held.future, *jobs)
    commits = transactions.count("COMMIT")
    # one for the setting of the trace, up to two around the held job, and those of the group
    assert commits <= 3 + (count > GROUP_LIMIT)
    assert await writer.call(values) == list(range(count))


async def test_a_job_that_fails_leaves_nothing_and_harms_no_other(writer: SqliteThread) -> None:
    held = Held(writer)
    jobs: list[asyncio.Future[Any]] = [
        writer.call(insert(1)),
        writer.call(failing(sqlite3.SQLITE_FULL, 7, 8)),
        writer.call(insert(1)),
        writer.call(insert(2)),
    ]
    held.release()
    results = await asyncio.gather(held.future, *jobs, return_exceptions=True)
    assert [type(result) for result in results] == [bool, int, Translated, Translated, int]
    assert [str(result) for result in results[2:4]] == ["FULL", "OTHER"]  # the second insert of 1 breaks the key
    assert await writer.call(values) == [1, 2]


async def test_errors_that_are_not_sqlite_s_pass_unchanged(writer: SqliteThread) -> None:
    def job(connection: Connection) -> None:
        insert(1)(connection)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await writer.call(job)
    assert await writer.call(values) == []


async def test_after_an_io_error_a_writer_refuses_everything_until_it_is_started_again(writer: SqliteThread) -> None:
    held = Held(writer)
    jobs: list[asyncio.Future[Any]] = [writer.call(insert(1)), writer.call(failing(sqlite3.SQLITE_IOERR_FSYNC)), writer.call(insert(2))]
    held.release()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [str(result) for result in results] == ["IO", "IO", "IO"]
    with pytest.raises(Translated, match="IO"):
        await writer.call(insert(3))
    await writer.stop()
    await writer.start()
    assert await writer.call(values) == []


async def test_after_an_io_error_a_reader_goes_on(tmp_path: Path) -> None:
    reader = thread_on(tmp_path / "test.db", "read")
    await reader.start()
    with pytest.raises(Translated, match="IO"):
        await reader.call(failing(sqlite3.SQLITE_IOERR_READ))
    assert await reader.call(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
    await reader.stop()


async def test_a_cancelled_caller_disturbs_nobody(writer: SqliteThread) -> None:
    held = Held(writer)
    first, second = writer.call(insert(1)), writer.call(insert(2))
    first.cancel()
    held.release()
    assert await second == 1
    assert await writer.call(values) == [1, 2]


async def test_stopping_runs_what_waits_and_is_idempotent(writer: SqliteThread) -> None:
    jobs = [writer.call(insert(value)) for value in range(5)]
    await writer.stop()
    await writer.stop()
    assert await asyncio.gather(*jobs) == [1] * 5
    with pytest.raises(Translated, match="CLOSED"):
        writer.call(insert(6))


async def test_starting_twice_is_starting_once(writer: SqliteThread) -> None:
    before = threading.active_count()
    await writer.start()
    assert threading.active_count() == before


async def test_a_failed_start_leaves_it_stopped(tmp_path: Path) -> None:
    thread = thread_on(tmp_path)
    with pytest.raises(Translated, match="DENIED"):
        await thread.start()
    with pytest.raises(Translated, match="CLOSED"):
        thread.call(values)


def test_a_caller_whose_loop_is_gone_stops_nothing(tmp_path: Path) -> None:
    thread, release = thread_on(tmp_path / "test.db"), threading.Event()

    async def leave() -> None:
        await thread.start()
        thread.call(lambda connection: release.wait(10))

    async def come_back() -> object:
        try:
            return await thread.call(lambda connection: connection.execute("SELECT 1").fetchone())
        finally:
            await thread.stop()

    asyncio.run(leave())
    release.set()
    assert asyncio.run(come_back()) == (1,)


# --- what errors mean ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_FULL, Fault.FULL),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Fault.FULL),
        (sqlite3.SQLITE_IOERR_FSYNC, Fault.IO),
        (sqlite3.SQLITE_IOERR_WRITE, Fault.IO),
        (sqlite3.SQLITE_CORRUPT, Fault.CORRUPT),
        (sqlite3.SQLITE_NOTADB, Fault.CORRUPT),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Fault.LOCKED),
        (sqlite3.SQLITE_READONLY_DBMOVED, Fault.DENIED),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, Fault.DENIED),
        (sqlite3.SQLITE_CONSTRAINT, Fault.OTHER),
    ],
)
def test_result_codes_fall_into_kinds(code: int, fault: Fault) -> None:
    error = sqlite3.OperationalError("from SQLite")
    error.sqlite_errorcode = code
    assert classify(error) is fault
    message, hint = describe(error, "the thing /data/x")
    assert message == f"the thing /data/x: {fault.value} (from SQLite)"
    assert hint


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Fault.FULL),
        (PermissionError(errno.EACCES, "Permission denied"), Fault.DENIED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), Fault.CORRUPT),
        (sqlite3.OperationalError("Could not decode to UTF-8 column 'x'"), Fault.CORRUPT),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), Fault.CLOSED),
        (sqlite3.InterfaceError("something else"), Fault.OTHER),
    ],
)
def test_errors_without_a_result_code_fall_into_kinds(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


def test_a_read_only_database_is_denied(tmp_path: Path) -> None:
    connect(tmp_path / "test.db", 0).close()
    connection = sqlite3.connect(f"file:{tmp_path}/test.db?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as raised:
        connection.execute("CREATE TABLE t(x)")
    assert classify(raised.value) is Fault.DENIED
    connection.close()
