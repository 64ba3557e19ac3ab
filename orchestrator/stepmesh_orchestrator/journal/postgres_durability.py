"""Asks PostgreSQL what it would lose: whether a commit is flushed, and where else it is. Only asks."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from stepmesh_broker.durability import Finding
from stepmesh_orchestrator.ports import JournalError

_NAMES = ("fsync", "synchronous_commit", "full_page_writes", "synchronous_standby_names", "server_version")
_TIMEOUT_S = 5


async def examine(url: str) -> list[Finding]:
    """Raises `JournalError`."""
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=_TIMEOUT_S) as connection:
            said: dict[str, str] = {}
            for name in _NAMES:
                row = await (await connection.execute("SELECT current_setting(%s)", (name,))).fetchone()
                said[name] = "" if row is None else str(row[0])
    except psycopg.Error as problem:
        raise JournalError(
            f"PostgreSQL cannot be asked: {str(problem).strip() or type(problem).__name__}",
            code="SM-0154", hint="is it up, and are address and password right?",
        ) from problem  # fmt: skip
    return findings(said)


def findings(said: Mapping[str, str]) -> list[Finding]:
    """What the settings mean."""
    commit, standby = said["synchronous_commit"], said["synchronous_standby_names"]
    return [
        Finding("postgres", said["server_version"]),
        _wanted("fsync", said["fsync"], "on", "power loss may destroy the whole database"),
        _commit(commit),
        _wanted("full_page_writes", said["full_page_writes"], "on", "power loss in the middle of a page may destroy what was there before"),
        _standby(standby, waits=commit not in ("local", "off")),
    ]


def _wanted(name: str, value: str, good: str, lost: str) -> Finding:
    return Finding(f"postgres {name}", value) if value == good else Finding(f"postgres {name}", value, lost, f"{name} = {good}")


def _commit(value: str) -> Finding:
    name = "postgres synchronous_commit"
    if value != "off":
        return Finding(name, value)
    return Finding(
        name, value, "a crash of the server takes the commits of the last moments (3 × wal_writer_delay)", "synchronous_commit = on"
    )


def _standby(names: str, *, waits: bool) -> Finding:
    name = "postgres synchronous_standby_names"
    if not names:
        return Finding(name, "none", "the loss of the disk takes what no standby or backup has", "a standby that is named there")
    return Finding(name, names) if waits else Finding(name, names, "a commit does not wait for it", "synchronous_commit = on")
