"""One SQLite connection in one thread of its own, with asyncio callers.

Callers hand over jobs; the thread runs all that wait in one transaction, and answers after the commit: so one fsync serves
everybody who waited for the one before. The invariant: a job's future has a result only if its transaction was committed,
and a job that raises leaves nothing behind and harms no other. Must not know what is stored.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

from stepmesh_orchestrator.sqlite.faults import ERRORS, Fault, classify

log = logging.getLogger(__name__)

T = TypeVar("T")
Connection = sqlite3.Connection

GROUP_LIMIT = 64  # jobs in one transaction


class _Job(NamedTuple):
    run: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class _Outcome(NamedTuple):
    job: _Job
    result: Any
    error: Exception | None


class SqliteThread:
    """`connect` is called in the thread and gives a connection with `isolation_level=None`. `mode` "write" takes the write
    lock at the start of each transaction; after an I/O error a writer refuses all that follows, because SQLite and the
    kernel may then disagree on what is durable. `translate` makes the caller's error out of one of `sqlite3` or the system.
    """

    def __init__(
        self, name: str, connect: Callable[[], Connection], translate: Callable[[Exception], Exception], mode: Literal["read", "write"]
    ) -> None:
        self._name = name
        self._connect = connect
        self._translate = translate
        self._begin = "BEGIN IMMEDIATE" if mode == "write" else "BEGIN"
        self._fatal_fault = Fault.IO if mode == "write" else None
        self._fatal: Exception | None = None
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Open the connection. Raises what `translate` makes of the failure."""
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        self._fatal = None
        self._thread = threading.Thread(target=self._main, args=(opened, loop), name=self._name, daemon=True)
        self._thread.start()
        try:
            await opened
        except BaseException:
            self._thread = None
            raise

    async def stop(self) -> None:
        """Run what waits, then close the connection. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    def call(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Have `job` run in a transaction; the future is done after its commit. Raises at once when the thread is stopped."""
        if self._thread is None:
            raise self._translate(sqlite3.ProgrammingError("the database is closed"))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(job, future, loop))
        return future

    def _main(self, opened: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        start = _Job(lambda connection: None, opened, loop)
        try:
            connection = self._connect()
        except Exception as error:
            _deliver([_Outcome(start, None, self._translated(error))])
            return
        _deliver([_Outcome(start, None, None)])
        try:
            while jobs := self._waiting():
                _deliver(self._run(connection, jobs))
        finally:
            connection.close()

    def _waiting(self) -> list[_Job]:
        """At least one job, waiting for it; empty at the end."""
        jobs: list[_Job] = []
        while not jobs or (len(jobs) < GROUP_LIMIT and not self._queue.empty()):
            job = self._queue.get()
            if job is None:
                if jobs:
                    self._queue.put(None)  # the end comes after these
                break
            jobs.append(job)
        return jobs

    def _run(self, connection: Connection, jobs: list[_Job]) -> list[_Outcome]:
        """All in one transaction; if that fails, each in its own, so that only the culprit fails."""
        if self._fatal is not None:
            return [_Outcome(job, None, self._fatal) for job in jobs]
        try:
            connection.execute(self._begin)
        except Exception as error:
            failure = self._translated(error)
            return [_Outcome(job, None, failure) for job in jobs]
        try:
            outcomes = [_Outcome(job, job.run(connection), None) for job in jobs]
            connection.execute("COMMIT")
        except Exception as error:
            _roll_back(connection)
            if len(jobs) == 1 or self._is_fatal(error):
                failure = self._translated(error)
                return [_Outcome(job, None, failure) for job in jobs]
            return [outcome for job in jobs for outcome in self._run(connection, [job])]
        return outcomes

    def _is_fatal(self, error: Exception) -> bool:
        return isinstance(error, ERRORS) and classify(error) is self._fatal_fault

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, ERRORS):
            return error
        translated = self._translate(error)
        if self._is_fatal(error):
            self._fatal = translated
        return translated


def _roll_back(connection: Connection) -> None:
    if not connection.in_transaction:  # SQLite rolls back by itself when the disk is full
        return
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:  # the jobs learn of the error that led here
        log.error("could not roll back: %s", error)


def _deliver(outcomes: list[_Outcome]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome.job.loop, []).append(outcome)
    for loop, its_outcomes in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, its_outcomes)
        except RuntimeError:  # that loop is closed: nobody waits any more
            log.debug("nobody waits for %d answers", len(its_outcomes))


def _settle(outcomes: list[_Outcome]) -> None:
    for job, result, error in outcomes:
        if job.future.done():  # its caller was cancelled
            continue
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
