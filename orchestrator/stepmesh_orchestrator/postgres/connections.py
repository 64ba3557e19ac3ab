"""A few connections to one server, made when they are needed and kept for the next call.

Invariant: no call hangs (connecting and every job have a limit), and a connection on which anything went wrong with the server is never
used again. One that the server closed while it lay idle is noticed before it is used, so that after a restart of the server the first
calls succeed. While the server is away, calls fail at once but for those that try it now and then (attempts.py). Must not know what is
stored.
"""

from __future__ import annotations

import asyncio
import select
import traceback
from collections.abc import Awaitable, Callable
from typing import LiteralString, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from stepmesh_orchestrator.postgres.attempts import Attempts
from stepmesh_orchestrator.postgres.faults import ERRORS, Fault, classify, is_lost

T = TypeVar("T")
Connection = psycopg.AsyncConnection[TupleRow]

CONNECT_S = 5
_SETTINGS: LiteralString = """SELECT set_config('search_path', %s, false), set_config('statement_timeout', %s, false),
    set_config('idle_in_transaction_session_timeout', %s, false)"""  # a process that stands still keeps no lock


class _Connection(psycopg.AsyncConnection[TupleRow]):
    """When a statement's caller gives up, its connection is closed: a server that does not answer does not hear a request to cancel either,
    which psycopg would wait for. The statement's own limit ends it there."""

    async def cancel_safe(self, *, timeout: float = 0) -> None:
        self.pgconn.finish()


class PostgresConnections:
    """At most `size` connections at a time, in autocommit mode, with `schema` as their search path; more jobs than that wait.

    `translate` makes the caller's error out of one of psycopg. A job longer than `timeout_s` fails.
    """

    def __init__(self, url: str, schema: str, translate: Callable[[Exception], Exception], size: int, timeout_s: float) -> None:
        self._url = url
        self._schema = schema
        self._translate = translate
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._attempts = Attempts(self._connect)
        self._under_way = 0
        self._drained = asyncio.Event()
        self._open = False

    async def open(self, prepare: Callable[[Connection], Awaitable[None]]) -> None:
        """Connect and `prepare` in a transaction, so that a wrong address or schema shows now; closed again when that fails. Raises what
        `translate` makes of a failure, and what `prepare` raises."""
        self._open = True
        self._attempts.forget()
        try:
            await self.transaction(prepare)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let jobs that run finish, then disconnect. Idempotent."""
        self._open = False
        while self._under_way:
            self._drained.clear()
            await self._drained.wait()
        while self._idle:
            await self._idle.pop().close()

    async def run(self, job: Callable[[Connection], Awaitable[T]], *, again: bool = True) -> T:
        """What `job` makes of a connection. `again`: when the connection is lost, the job is done once more on a new one; not for
        jobs that must not be done twice."""
        if not self._open:
            raise self._translate(psycopg.InterfaceError("it is closed: open it first"))
        self._under_way += 1
        try:
            async with self._places:
                return await self._run(job, again)
        except ERRORS as error:
            raise self._translate(error) from error
        finally:
            self._under_way -= 1
            self._drained.set()

    async def transaction(self, job: Callable[[Connection], Awaitable[T]], *, again: bool = True) -> T:
        """`job` in a transaction: all or nothing."""

        async def inside(connection: Connection) -> T:
            async with connection.transaction():
                return await job(connection)

        return await self.run(inside, again=again)

    async def snapshot(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        """`job`, which only reads, sees the database as it was at one moment. Its statements go out together when it lets them."""

        async def inside(connection: Connection) -> T:
            async with connection.pipeline():
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                result = await job(connection)
                await connection.execute("COMMIT")
            return result

        return await self.run(inside)

    async def _run(self, job: Callable[[Connection], Awaitable[T]], again: bool) -> T:
        try:
            return await self._on(await self._kept() or await self._attempts.connection(), job)
        except ERRORS as error:
            if not again or not is_lost(error):
                raise
        return await self._on(await self._attempts.connection(), job)

    async def _on(self, connection: Connection, job: Callable[[Connection], Awaitable[T]]) -> T:
        healthy = False
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await _cancellable(job(connection))
            healthy = True
        except Exception as error:
            healthy = not isinstance(error, ERRORS) or classify(error) is Fault.OTHER
            raise
        finally:
            if healthy and self._open and connection.pgconn.transaction_status == TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await connection.close()
        return result

    async def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            await connection.close()
        return None

    async def _connect(self) -> Connection:
        timeout_ms = int(self._timeout_s * 1000)
        connection = await self._introduced(timeout_ms)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.execute(_SETTINGS, (f'"{self._schema}"', str(timeout_ms), str(timeout_ms)))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _introduced(self, timeout_ms: int) -> Connection:
        try:
            return await _Connection.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_S,
                tcp_user_timeout=timeout_ms,
                client_encoding="utf8",
                application_name="stepmesh",
            )
        except BaseException as error:
            # The socket is closed now, and not when nobody thinks of the error any more: psycopg leaves it to its frames. A server that
            # crashed waits a minute for whoever knocked and said no more, and serves nobody until then.
            traceback.clear_frames(error.__traceback__)
            raise


def _has_news(connection: Connection) -> bool:
    """An idle connection hears nothing but its end, or a notice that we can do without."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _cancellable(call: Awaitable[T]) -> T:
    """The older psycopg's say that the connection is lost where they were cancelled."""
    try:
        return await call
    except ERRORS as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise
