"""The schema of one namespace: its name, and its tables brought to the newest version by whoever opens it first.

Invariant: steps of a part (journal, store, membership) run once and in order, all or none, however many processes open at once: an
advisory lock lets one in at a time. A released step never changes. Must not know what the tables are for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import LiteralString

from psycopg.sql import SQL, Identifier

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.postgres.connections import Connection

_LONGEST = 63
"""Bytes of a name; PostgreSQL cuts longer ones off without a word."""
_DIGEST = 16


class ForeignSchema(Exception):
    """The tables are of a newer release; the message says which version is there and which one is known."""


def schema_name(namespace: Namespace) -> str:
    """`stepmesh_<namespace>`; a long one ends in a digest, after a character that no namespace has."""
    name = f"stepmesh_{namespace}"
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(namespace.encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST - _DIGEST - 1]}~{digest}"


async def migrate(connection: Connection, schema: str, part: str, steps: Sequence[Sequence[LiteralString]]) -> None:
    """Bring the tables of `part` to version `len(steps)`, inside the caller's transaction. Raises `ForeignSchema`."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"stepmesh migrates {schema}",))
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname=%s", (schema,))
    if await found.fetchone() is None:  # IF NOT EXISTS would need the right to create one even when it is there
        await connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    await connection.execute("CREATE TABLE IF NOT EXISTS migrations(part text PRIMARY KEY, version integer NOT NULL)")
    row = await (await connection.execute("SELECT version FROM migrations WHERE part=%s", (part,))).fetchone()
    done: int = row[0] if row else 0
    if done > len(steps):
        raise ForeignSchema(f"it has version {done} of the {part}'s tables; this release knows {len(steps)}")
    if done == len(steps):
        return
    for statements in steps[done:]:
        for statement in statements:
            await connection.execute(statement)
    upsert = "INSERT INTO migrations VALUES(%s, %s) ON CONFLICT(part) DO UPDATE SET version=excluded.version"
    await connection.execute(upsert, (part, len(steps)))
