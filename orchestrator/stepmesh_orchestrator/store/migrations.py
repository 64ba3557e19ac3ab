"""The SQLite store's schema as numbered steps: a released step never changes, a new need is a new step.

Rows are kept whole, as MessagePack of the port's structs; a column exists for what is looked up or sorted by.
"""

from __future__ import annotations

import sqlite3

from stepmesh_orchestrator.ports import StoreError

APPLICATION_ID = 0x53544D53  # "STMS"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE flows(id TEXT PRIMARY KEY, name TEXT NOT NULL, document BLOB NOT NULL, created_ms INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE blobs(id TEXT PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL, filename TEXT, content_type TEXT)",
        "CREATE TABLE projected(partition INTEGER PRIMARY KEY, sequence INTEGER NOT NULL)",
        """CREATE TABLE runs(run TEXT PRIMARY KEY, namespace TEXT NOT NULL, status TEXT NOT NULL, flow_name TEXT NOT NULL,
            root TEXT NOT NULL, parent TEXT, created_ms INTEGER NOT NULL, row BLOB NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX runs_newest ON runs(namespace, created_ms, run)",
        "CREATE INDEX runs_status ON runs(namespace, status, created_ms, run)",
        "CREATE INDEX runs_flow ON runs(namespace, flow_name, created_ms, run)",
        "CREATE INDEX runs_root ON runs(root, created_ms, run)",
        "CREATE INDEX runs_parent ON runs(parent, created_ms, run) WHERE parent IS NOT NULL",
        "CREATE TABLE items(run TEXT NOT NULL, item INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY(run, item)) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE runs ADD COLUMN depth INTEGER NOT NULL DEFAULT 0",
        """WITH RECURSIVE below(run, depth) AS (SELECT run, 0 FROM runs WHERE parent IS NULL
            UNION ALL SELECT runs.run, below.depth + 1 FROM runs JOIN below ON runs.parent=below.run)
            UPDATE runs SET depth=(SELECT below.depth FROM below WHERE below.run=runs.run)
            WHERE parent IS NOT NULL AND run IN (SELECT run FROM below)""",
    ),
    ("CREATE INDEX flows_name ON flows(name, created_ms)",),
)


def migrate(connection: sqlite3.Connection, where: str) -> None:
    """Bring the file to the newest schema, all steps or none. Raises `StoreError` when it is no store, or one of a newer release."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, where)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection, where: str) -> None:
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("CREATE TABLE migrations(number INTEGER PRIMARY KEY)")
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"the file {where} is a SQLite database, but no store", code="SM-4104", hint="name another data folder")
    done = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0]
    if done > len(MIGRATIONS):
        message = f"the store {where} has schema {done}; this release knows {len(MIGRATIONS)}"
        raise StoreError(message, code="SM-4104", hint="run the release that wrote it, or name another data folder")
    for number, statements in enumerate(MIGRATIONS[done:], done + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES(?)", (number,))
