"""The Membership port over a SQLite file beside the journal: orchestrators that are processes of one machine.

Time is the machine's own monotonic clock, which all its processes share; after a restart of the machine it begins anew, so what
is said to hold for longer than its own duration is from before, and over. Commits are not synced: all that is here is over soon.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial as bound
from pathlib import Path

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Member, Members, MembershipError, MembershipFull
from stepmesh_orchestrator.sqlite import Fault, SqliteThread, classify, connect, describe
from stepmesh_orchestrator.sqlite.connection import make_folder

Connection = sqlite3.Connection

_TABLES = (
    """CREATE TABLE IF NOT EXISTS members(
        node TEXT PRIMARY KEY, release TEXT NOT NULL, leaving INTEGER NOT NULL, until REAL NOT NULL, ttl REAL NOT NULL) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS leases(partition INTEGER PRIMARY KEY, node TEXT NOT NULL, until REAL NOT NULL, ttl REAL NOT NULL)",
)


class SqliteMembership:
    """In the file `path`, made with its folder if absent. Another process's lock is waited for `busy_seconds`."""

    def __init__(self, path: Path, busy_seconds: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._now = now
        self._thread = SqliteThread("membership", self._connect, self._translate, "write")

    async def open(self) -> None:
        """See the port."""
        await self._thread.start()

    async def close(self) -> None:
        """See the port."""
        await self._thread.stop()

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """See the port."""
        return await self._thread.call(bound(self._beat, member=member, ttl_s=ttl_s))

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """See the port."""
        return await self._thread.call(bound(self._take, partition=partition, node=node, ttl_s=ttl_s))

    async def release(self, partition: Partition, node: str) -> None:
        """See the port."""
        await self._thread.call(
            lambda connection: connection.execute("DELETE FROM leases WHERE partition=? AND node=?", (partition, node)).rowcount
        )

    async def leave(self, node: str) -> None:
        """See the port."""
        await self._thread.call(bound(_leave, node=node))

    def _beat(self, connection: Connection, member: Member, ttl_s: float) -> Members:
        until = self._forget(connection) + ttl_s
        connection.execute("INSERT OR REPLACE INTO members VALUES(?,?,?,?,?)", (member.node, member.release, member.leaving, until, ttl_s))
        connection.execute("UPDATE leases SET until=?, ttl=? WHERE node=?", (until, ttl_s, member.node))
        members = connection.execute("SELECT node, release, leaving FROM members").fetchall()
        leases = connection.execute("SELECT partition, node FROM leases").fetchall()
        return Members(
            {node: Member(node, release, bool(leaving)) for node, release, leaving in members},
            {Partition(partition): node for partition, node in leases},
        )

    def _take(self, connection: Connection, partition: Partition, node: str, ttl_s: float) -> bool:
        until = self._forget(connection) + ttl_s
        taken = connection.execute(
            """INSERT INTO leases VALUES(?,?,?,?) ON CONFLICT(partition)
                DO UPDATE SET until=excluded.until, ttl=excluded.ttl WHERE node=excluded.node""",
            (partition, node, until, ttl_s),
        )
        return taken.rowcount == 1

    def _forget(self, connection: Connection) -> float:
        """Drop what is over; the time now."""
        now = self._now()
        for table in ("members", "leases"):
            connection.execute(f"DELETE FROM {table} WHERE until<=? OR until-ttl>?", (now, now))
        return now

    def _connect(self) -> Connection:
        make_folder(self._path.parent)
        connection = connect(self._path, self._busy_seconds)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            for table in _TABLES:
                connection.execute(table)
        except BaseException:
            connection.close()
            raise
        return connection

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the members' file {self._path}")
        if classify(error) is Fault.CORRUPT:
            hint = "stop the orchestrators and delete this file: it holds nothing that lasts"
        return (MembershipFull if classify(error) is Fault.FULL else MembershipError)(message, hint=hint)


def _leave(connection: Connection, node: str) -> None:
    connection.execute("DELETE FROM members WHERE node=?", (node,))
    connection.execute("DELETE FROM leases WHERE node=?", (node,))
