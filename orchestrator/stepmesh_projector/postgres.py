"""Checkpoints and windows in the PostgreSQL schema of a namespace, beside the read model; what `stepmesh stats` reads.

Invariant: a checkpoint and the windows up to it are written together, and never over later ones. Window rows are of one journal
partition each: they add up to what is asked for. Must not know what an image holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import LiteralString

import msgspec
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.postgres import Connection, ForeignSchema, PostgresConnections, migrate, schema_name
from stepmesh_projector.ports import Checkpoint
from stepmesh_projector.progress import store_error
from stepmesh_projector.usage import BILLION, Usage
from stepmesh_projector.windows import Counts, Label, Place, Window, decode_window

TIMEOUT_S = 30.0
_CONNECTIONS = 4
_COUNTS = Counts.__struct_fields__
STEPS: tuple[tuple[LiteralString, ...], ...] = (
    (
        """CREATE TABLE checkpoints(partition bigint PRIMARY KEY, sequence bigint NOT NULL, position bigint NOT NULL, anchor bytea NOT NULL,
            image bytea NOT NULL)""",
        # the numbers are columns for whoever draws them; `row` holds all of a window
        """CREATE TABLE windows(namespace text COLLATE "C", kind text COLLATE "C", name text COLLATE "C", start_ms bigint, partition bigint,
            sequence bigint NOT NULL, dispatched bigint NOT NULL, succeeded bigint NOT NULL, failed bigint NOT NULL,
            retried bigint NOT NULL, runs_started bigint NOT NULL, runs_completed bigint NOT NULL, runs_failed bigint NOT NULL,
            runs_cancelled bigint NOT NULL, row bytea NOT NULL, PRIMARY KEY(start_ms, namespace, kind, name, partition))""",
        "CREATE TABLE generation(number bigint NOT NULL)",
        "INSERT INTO generation VALUES(0)",
    ),
    (
        """ALTER TABLE windows ADD prompt_tokens bigint NOT NULL DEFAULT 0, ADD completion_tokens bigint NOT NULL DEFAULT 0,
            ADD total_tokens bigint NOT NULL DEFAULT 0, ADD cost jsonb NOT NULL DEFAULT '{}'""",
    ),
)
_SAVE: LiteralString = """INSERT INTO checkpoints VALUES(%s, %s, %s, %b, %b)
    ON CONFLICT(partition) DO UPDATE SET sequence=excluded.sequence, position=excluded.position,
    anchor=excluded.anchor, image=excluded.image WHERE checkpoints.sequence<=excluded.sequence RETURNING 1"""
_WINDOWS: LiteralString = """INSERT INTO windows SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[],
        %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[],
        %b::bytea[], %b::bigint[], %b::bigint[], %b::bigint[], %b::jsonb[])
    ON CONFLICT(start_ms, namespace, kind, name, partition) DO UPDATE SET sequence=excluded.sequence, dispatched=excluded.dispatched,
        succeeded=excluded.succeeded, failed=excluded.failed, retried=excluded.retried, runs_started=excluded.runs_started,
        runs_completed=excluded.runs_completed, runs_failed=excluded.runs_failed, runs_cancelled=excluded.runs_cancelled, row=excluded.row,
        prompt_tokens=excluded.prompt_tokens, completion_tokens=excluded.completion_tokens, total_tokens=excluded.total_tokens,
        cost=excluded.cost
    WHERE windows.sequence<=excluded.sequence"""


class PostgresKeeper:
    """See `Keeper`, for `namespace` in the database that `url` names. The schema is made if absent."""

    def __init__(self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S) -> None:
        self._schema = schema_name(namespace)
        self._where = f"{without_password(url)}, schema {self._schema}"
        self._connections = PostgresConnections(url, self._schema, lambda error: store_error(error, self._where), _CONNECTIONS, timeout_s)

    async def open(self) -> None:
        """Connect, make the tables. Raises `StoreError`."""
        await self._connections.open(self._prepare)

    async def close(self) -> None:
        """Release. Idempotent."""
        await self._connections.close()

    async def load(self, partition: Partition) -> Checkpoint | None:
        """See the port."""
        rows = await self._read("SELECT sequence, position, anchor, image FROM checkpoints WHERE partition=%s", (partition,))
        return Checkpoint(*rows[0]) if rows else None

    async def save(self, partition: Partition, checkpoint: Checkpoint, windows: Mapping[Place, bytes]) -> bool:
        """See the port."""
        columns = _columns(partition, windows)

        async def job(connection: Connection) -> bool:
            if not await _all(connection, _SAVE, (partition, *checkpoint)):
                return False
            await connection.execute(_WINDOWS, columns)
            return True

        return await self._connections.transaction(job)

    async def forget(self, before_ms: int) -> None:
        """See the port."""
        await self._connections.run(lambda connection: connection.execute("DELETE FROM windows WHERE start_ms<%s", (before_ms,)))

    async def windows(self, kind: str, since_ms: int) -> list[tuple[Place, Window]]:
        """Those that began then or later, oldest first: one of each partition."""
        select: LiteralString = "SELECT namespace, name, start_ms, row FROM windows WHERE start_ms>=%s AND kind=%s ORDER BY start_ms, name"
        rows = await self._read(select, (since_ms, kind))
        return [(Place(Label(namespace, kind, name), start_ms), decode_window(row)) for namespace, name, start_ms, row in rows]

    async def generation(self) -> int:
        """How often `clear` was called."""
        return int((await self._read("SELECT number FROM generation", ()))[0][0])

    async def clear(self, whole: Sequence[Partition]) -> None:
        """Forget checkpoints and windows. No row of the read model goes, for the journal may not have its frames any more; those of
        partitions that are `whole` are written again. The store is open."""

        async def job(connection: Connection) -> None:
            await connection.execute("UPDATE generation SET number=number+1")
            await connection.execute("TRUNCATE checkpoints")
            await connection.execute("TRUNCATE windows")
            await connection.execute("DELETE FROM projected WHERE partition=ANY(%s)", ([*whole],))

        await self._connections.transaction(job)

    async def _prepare(self, connection: Connection) -> None:
        try:
            await migrate(connection, self._schema, "projector", STEPS)
        except ForeignSchema as problem:
            message = f"the projector's tables in {self._where} are of a newer release: {problem}"
            raise StoreError(message, code="SM-4213", hint="run that release, or name another namespace") from None

    async def _read(self, select: LiteralString, values: tuple[object, ...]) -> list[TupleRow]:
        return await self._connections.run(partial(_all, select=select, values=values))


async def _all(connection: Connection, select: LiteralString, values: Sequence[object]) -> list[TupleRow]:
    return await (await connection.execute(select, values, binary=True)).fetchall()


def _columns(partition: Partition, windows: Mapping[Place, bytes]) -> list[list[object]]:
    """In the order of their keys, so that two that write the same rows never wait for each other in a circle."""
    rows: list[tuple[object, ...]] = []
    for (label, start_ms), data in sorted(windows.items(), key=lambda window: (window[0].start_ms, window[0].label)):
        window = decode_window(data)
        counts = msgspec.structs.astuple(window.counts)
        name = label.name.replace("\0", "\ufffd")  # no text of the database has it
        rows.append((label.namespace, label.kind, name, start_ms, partition, window.sequence, *counts, data, *_usage(window.usage)))
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(11 + len(_COUNTS))]


def _usage(usage: Usage) -> tuple[object, ...]:
    cost = {currency: billionths / BILLION for currency, billionths in usage.costs.items()}
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, Jsonb(cost)
