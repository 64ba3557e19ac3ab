"""The PostgreSQL store's tables, the statements on them, and how a name becomes a text of the database.

Rows are kept whole, as MessagePack of the port's structs; a column exists for what is looked up or sorted by. Steps: a released one
never changes, a new need is a new step. Must not know connections.
"""

from __future__ import annotations

import hashlib
from typing import LiteralString

STEPS: tuple[tuple[LiteralString, ...], ...] = (
    (
        'CREATE TABLE flows(id text COLLATE "C" PRIMARY KEY, name text NOT NULL, document bytea NOT NULL, created_ms bigint NOT NULL)',
        'CREATE TABLE blobs(id text COLLATE "C" PRIMARY KEY, kind text NOT NULL, data bytea NOT NULL, filename text, content_type text)',
        "CREATE TABLE projected(partition bigint PRIMARY KEY, sequence bigint NOT NULL) WITH (fillfactor=20)",
        # "C": sorted by bytes, as everywhere else, not by the language of the database
        """CREATE TABLE runs(run text COLLATE "C" PRIMARY KEY, namespace text COLLATE "C" NOT NULL, status text COLLATE "C" NOT NULL,
            flow_name text COLLATE "C" NOT NULL, root text COLLATE "C" NOT NULL, parent text COLLATE "C", created_ms bigint NOT NULL,
            depth integer NOT NULL, row bytea NOT NULL) WITH (fillfactor=80)""",
        "CREATE INDEX runs_newest ON runs(namespace, created_ms, run)",
        "CREATE INDEX runs_newest_root ON runs(namespace, created_ms, run) WHERE root=run",
        "CREATE INDEX runs_status ON runs(namespace, status, created_ms, run)",
        "CREATE INDEX runs_flow ON runs(namespace, flow_name, created_ms, run)",
        "CREATE INDEX runs_root ON runs(root, created_ms, run)",
        "CREATE INDEX runs_parent ON runs(parent, created_ms, run) WHERE parent IS NOT NULL",
        'CREATE TABLE items(run text COLLATE "C" NOT NULL, item bigint NOT NULL, row bytea NOT NULL, PRIMARY KEY(run, item))',
    ),
    ("CREATE INDEX flows_name ON flows(md5(name), created_ms)",),  # a name may be longer than an entry of an index
)

INSERT_FLOW: LiteralString = "INSERT INTO flows VALUES(%s, %s, %b, %s) ON CONFLICT DO NOTHING"
FLOWS_NAMED: LiteralString = """SELECT id, name, document, created_ms FROM flows WHERE md5(name)=md5(%s) AND name=%s
    ORDER BY created_ms DESC, id LIMIT %s"""
INSERT_BLOB: LiteralString = "INSERT INTO blobs VALUES(%s, %s, %b, %s, %s) ON CONFLICT DO NOTHING"
DELETE_FLOW: LiteralString = """WITH blob AS (DELETE FROM blobs WHERE id=%s AND kind='flow' RETURNING 1),
    flow AS (DELETE FROM flows WHERE id=%s RETURNING 1) SELECT 1 FROM blob UNION ALL SELECT 1 FROM flow"""
PROJECT: LiteralString = """WITH moved AS (
    INSERT INTO projected VALUES(%s, %s) ON CONFLICT(partition) DO UPDATE SET sequence=excluded.sequence
        WHERE projected.sequence<=excluded.sequence RETURNING 1),
    new_runs AS (INSERT INTO runs
        SELECT new.* FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::integer[],
            %b::bytea[]) AS new WHERE EXISTS (SELECT 1 FROM moved)
        ON CONFLICT(run) DO UPDATE SET namespace=excluded.namespace, status=excluded.status, flow_name=excluded.flow_name,
            root=excluded.root, parent=excluded.parent, created_ms=excluded.created_ms, depth=excluded.depth, row=excluded.row),
    new_items AS (INSERT INTO items
        SELECT new.* FROM unnest(%b::text[], %b::bigint[], %b::bytea[]) AS new WHERE EXISTS (SELECT 1 FROM moved)
        ON CONFLICT(run, item) DO UPDATE SET row=excluded.row)
    SELECT 1 FROM moved"""
DELETE_TREES: LiteralString = """WITH gone AS (DELETE FROM runs WHERE root=ANY(%s) RETURNING run)
    DELETE FROM items WHERE run IN (SELECT run FROM gone)"""

RUN_COLUMNS = 9
ITEM_COLUMNS = 3
KEY_BYTES = 1000
"""Two of them, a namespace and a number fit into an entry of an index, which has 2,704 bytes at most."""

_MARK = "\x1a"


def stored(text: str) -> str:
    """A text of the database holds any character but NUL; names may have that one as well."""
    if "\0" in text or _MARK in text:
        return text.replace(_MARK, _MARK + "1").replace("\0", _MARK + "0")
    return text


def original(text: str) -> str:
    """What `stored` was given."""
    return text.replace(_MARK + "0", "\0").replace(_MARK + "1", _MARK) if _MARK in text else text


def stored_if(text: str | None) -> str | None:
    """The same for a text that may be missing."""
    return None if text is None else stored(text)


def original_if(text: str | None) -> str | None:
    """What `stored_if` was given."""
    return None if text is None else original(text)


def key(text: str) -> str:
    """A text in an index, which has no room for long ones: theirs ends in a digest, after what no other text has."""
    whole = stored(text)
    encoded = whole.encode()
    if len(encoded) <= KEY_BYTES:
        return whole
    digest = hashlib.sha256(encoded).hexdigest()
    return encoded[: KEY_BYTES - len(digest) - 2].decode(errors="ignore") + _MARK + "2" + digest


def key_if(text: str | None) -> str | None:
    """The same for a text that may be missing."""
    return None if text is None else key(text)
