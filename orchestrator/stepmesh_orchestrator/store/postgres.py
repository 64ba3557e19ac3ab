"""The Store port over PostgreSQL: flows, blobs and the read model of one namespace, shared by any number of processes.

Invariant: a projection is one transaction with the position that it reaches, so the read model never shows half a turn; nearly always it
is one statement. What lost its connection on the way is tried again, since every write but the deletion of a flow may be done twice. Must
not know what flows, blobs or results hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import LiteralString

import msgspec
from psycopg.rows import TupleRow

from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord, ItemRow, RunGone, RunQuery, RunRow, StoreError
from stepmesh_orchestrator.postgres import (
    Connection,
    Fault,
    ForeignSchema,
    PostgresConnections,
    classify,
    describe,
    migrate,
    schema_name,
)
from stepmesh_orchestrator.store.postgres_tables import (
    DELETE_FLOW,
    DELETE_TREES,
    FLOWS_NAMED,
    INSERT_BLOB,
    INSERT_FLOW,
    ITEM_COLUMNS,
    PROJECT,
    RUN_COLUMNS,
    STEPS,
    key,
    key_if,
    original,
    original_if,
    stored,
    stored_if,
)
from stepmesh_orchestrator.store.sqlite import StoreCorrupt, StoreFull, StoreUnavailable

TIMEOUT_S = 30.0
CONNECTIONS = 16
_ENCODINGS = {"UTF8", "SQL_ASCII"}

_ERRORS: dict[Fault, type[StoreError]] = {
    Fault.FULL: StoreFull,
    Fault.CORRUPT: StoreCorrupt,
    Fault.AWAY: StoreUnavailable,
    Fault.DENIED: StoreUnavailable,
}

_encode = msgspec.msgpack.Encoder().encode
_decode_run = msgspec.msgpack.Decoder(RunRow).decode
_decode_item = msgspec.msgpack.Decoder(ItemRow).decode


class PostgresStore:
    """The store of `namespace` in the database that `url` names (`postgresql://…`); its schema is made if absent. No call takes longer
    than `timeout_s`, and a little."""

    def __init__(self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS) -> None:
        self._schema = schema_name(namespace)
        self._where = f"{without_password(url)}, schema {self._schema}"
        self._connections = PostgresConnections(url, self._schema, self._translate, connections, timeout_s)

    async def open(self) -> None:
        """See the port. Raises `StoreError`: SM-4103 when the server cannot be reached or refuses us, SM-4110 for the tables of a newer
        release, SM-4111 for a database that cannot hold every character."""
        await self._connections.open(self._prepare)

    async def close(self) -> None:
        """See the port."""
        await self._connections.close()

    async def put_flow(self, flow: FlowRecord) -> None:
        """See the port."""
        await self._write(INSERT_FLOW, (flow.id, stored(flow.name), flow.document, flow.created_ms))

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        """See the port."""
        rows = await self._read("SELECT id, name, document, created_ms FROM flows WHERE id=%s", (stored(flow),))
        return FlowRecord(rows[0][0], original(rows[0][1]), *rows[0][2:]) if rows else None

    async def flows_named(self, name: str, limit: int) -> Sequence[FlowRecord]:
        """See the port."""
        rows = await self._read(FLOWS_NAMED, (stored(name), stored(name), limit))
        return [FlowRecord(row[0], original(row[1]), *row[2:]) for row in rows]

    async def delete_flow(self, flow: FlowId) -> bool:
        """See the port."""
        return bool(await self._connections.run(partial(_all, select=DELETE_FLOW, values=(stored(flow), stored(flow))), again=False))

    async def put_blob(self, blob: BlobRecord) -> None:
        """See the port."""
        await self._write(INSERT_BLOB, (blob.id, blob.kind, blob.data, stored_if(blob.filename), stored_if(blob.content_type)))

    async def get_blob(self, blob: BlobId) -> BlobRecord | None:
        """See the port."""
        rows = await self._read("SELECT id, kind, data, filename, content_type FROM blobs WHERE id=%s", (stored(blob),))
        for found, kind, data, filename, content_type in rows:
            return BlobRecord(found, kind, data, original_if(filename), original_if(content_type))
        return None

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        """See the port."""
        values = (partition, sequence, *_run_columns(runs), *_item_columns(items))
        if not gone:
            await self._connections.run(lambda connection: connection.execute(PROJECT, values, prepare=True))
            return
        trees = [key(tree.root) for tree in gone]

        async def both(connection: Connection) -> None:
            if await _all(connection, PROJECT, values):
                await connection.execute(DELETE_TREES, (trees,))

        await self._connections.transaction(both)

    async def projected(self, partition: Partition) -> int:
        """See the port."""
        rows = await self._read("SELECT sequence FROM projected WHERE partition=%s", (partition,))
        return rows[0][0] if rows else 0

    async def get_run(self, run: RunId) -> RunRow | None:
        """See the port."""
        rows = await self._read("SELECT row FROM runs WHERE run=%s", (key(run),))
        return _decode_run(rows[0][0]) if rows else None

    async def list_runs(self, query: RunQuery) -> Sequence[RunRow]:
        """See the port."""
        return [_decode_run(row[0]) for row in await self._read(*listing(query))]

    async def get_items(self, run: RunId, first: int = 0, limit: int | None = None) -> Sequence[ItemRow]:
        """See the port."""
        select: LiteralString = "SELECT row FROM items WHERE run=%s AND item>=%s ORDER BY item LIMIT %s"
        return [_decode_item(row[0]) for row in await self._read(select, (key(run), first, limit))]

    async def _prepare(self, connection: Connection) -> None:
        encoding = (await _all(connection, "SELECT current_setting('server_encoding')", ()))[0][0]
        if encoding not in _ENCODINGS:
            message = f"the database of the store in {self._where} has the encoding {encoding}: it cannot hold every name"
            raise StoreError(message, code="SM-4111", hint="create a database with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")
        try:
            await migrate(connection, self._schema, "store", STEPS)
        except ForeignSchema as problem:
            message = f"the store in {self._where} is of a newer release: {problem}"
            raise StoreError(message, code="SM-4110", hint="run that release, or name another namespace") from None

    async def _read(self, select: LiteralString, values: tuple[object, ...]) -> list[TupleRow]:
        return await self._connections.run(partial(_all, select=select, values=values))

    async def _write(self, statement: LiteralString, values: tuple[object, ...]) -> None:
        await self._connections.run(lambda connection: connection.execute(statement, values))

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the store in {self._where}")
        return _ERRORS.get(classify(error), StoreError)(message, hint=hint)


def listing(query: RunQuery) -> tuple[LiteralString, tuple[object, ...]]:
    """The statement of a listing, and its values."""
    filters: dict[LiteralString, object] = {
        "namespace=%s": query.namespace,
        "status=%s": query.status,
        "flow_name=%s": key_if(query.flow_name),
        "root=%s": key_if(query.root),
        "parent=%s": key_if(query.parent),
        "depth<=%s": query.max_depth,
    }
    given: dict[LiteralString, object] = {condition: value for condition, value in filters.items() if value is not None}
    more: LiteralString = " AND root=run" if query.roots_only else ""
    select: LiteralString = (
        "SELECT row FROM runs WHERE " + " AND ".join(given) + more + " ORDER BY created_ms DESC, run DESC LIMIT %s OFFSET %s"
    )
    return select, (*given.values(), query.limit, query.offset)


async def _all(connection: Connection, select: LiteralString, values: tuple[object, ...]) -> list[TupleRow]:
    return await (await connection.execute(select, values, binary=True)).fetchall()


def _run_columns(runs: Sequence[RunRow]) -> list[list[object]]:
    """In the order of their keys, so that two that write the same rows never wait for each other in a circle."""
    rows = [
        (key(row.run), row.namespace, row.status, key(row.flow_name), key(row.root), key_if(row.parent), row.created_ms,
         row.depth, _encode(row))
        for _, row in sorted({row.run: row for row in runs}.items())
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(RUN_COLUMNS)]


def _item_columns(items: Sequence[ItemRow]) -> list[list[object]]:
    rows = [(key(row.run), row.item, _encode(row)) for _, row in sorted({(row.run, row.item): row for row in items}.items())]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(ITEM_COLUMNS)]
