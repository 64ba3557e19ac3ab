"""The Store port over one SQLite file. Writes go through one thread, reads through another on its own connection.

Writes that wait for the same fsync share a transaction. A run or an item is one row: MessagePack of the port's struct, made and
read in the threads, so that the event loop pays only for the hand-over. What a column says of a run is not in the struct a second time.
Must not know what flows, blobs or results hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import structs

from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord, ItemRow, RunGone, RunQuery, RunRow, StoreError
from stepmesh_orchestrator.sqlite import Fault, SqliteThread, classify, connect, connect_first, describe
from stepmesh_orchestrator.store.migrations import migrate


class StoreFull(StoreError):
    """Retryable: no space left. Nothing of the write was kept."""

    default_code = "SM-4101"
    retryable = True


class StoreCorrupt(StoreError):
    """The file is damaged. Runs and items can be rebuilt from the journal; flows and blobs only come from a backup."""

    default_code = "SM-4102"


class StoreUnavailable(StoreError):
    """The file cannot be opened, is locked by another process, or was closed."""

    default_code = "SM-4103"
    retryable = True


_ERRORS: dict[Fault, type[StoreError]] = {
    Fault.FULL: StoreFull,
    Fault.CORRUPT: StoreCorrupt,
    Fault.LOCKED: StoreUnavailable,
    Fault.DENIED: StoreUnavailable,
    Fault.CLOSED: StoreUnavailable,
}

# an update, not a replacement: indexes whose columns stay are left alone
_UPSERT_RUN = """INSERT INTO runs VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(run) DO UPDATE SET namespace=excluded.namespace,
    status=excluded.status, flow_name=excluded.flow_name, root=excluded.root, parent=excluded.parent, created_ms=excluded.created_ms,
    row=excluded.row, depth=excluded.depth"""

_SELECT_RUN = "SELECT row, run, namespace, status, flow_name, root, created_ms FROM runs WHERE"

_encode = msgspec.msgpack.Encoder().encode
_decode_rest = msgspec.msgpack.Decoder(RunRow).decode
_decode_item = msgspec.msgpack.Decoder(ItemRow).decode

Connection = sqlite3.Connection


class SqliteStore:
    """The store in the file `path`, made with its folders if absent. Another process's lock is waited for `busy_seconds`."""

    def __init__(self, path: Path, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._writer = SqliteThread("store-writer", self._connect_writer, self._translate, "write")
        self._reader = SqliteThread("store-reader", partial(connect, path, busy_seconds), self._translate, "read")

    async def open(self) -> None:
        """See the port. Raises `StoreError`: SM-4103 when the file cannot be opened or is locked, SM-4104 for another schema."""
        await self._writer.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def close(self) -> None:
        """See the port."""
        await self._reader.stop()
        await self._writer.stop()

    async def put_flow(self, flow: FlowRecord) -> None:
        """See the port."""
        await self._writer.call(lambda connection: connection.execute("INSERT OR IGNORE INTO flows VALUES(?,?,?,?)", flow).rowcount)

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        """See the port."""
        row = await self._reader.call(lambda connection: connection.execute("SELECT * FROM flows WHERE id=?", (flow,)).fetchone())
        return FlowRecord(*row) if row else None

    async def flows_named(self, name: str, limit: int) -> Sequence[FlowRecord]:
        """See the port."""
        select = "SELECT * FROM flows WHERE name=? ORDER BY created_ms DESC, id LIMIT ?"
        rows = await self._reader.call(lambda connection: connection.execute(select, (name, limit)).fetchall())
        return [FlowRecord(*row) for row in rows]

    async def delete_flow(self, flow: FlowId) -> bool:
        """See the port."""
        return await self._writer.call(lambda connection: _delete_flow(connection, flow))

    async def put_blob(self, blob: BlobRecord) -> None:
        """See the port."""
        await self._writer.call(lambda connection: connection.execute("INSERT OR IGNORE INTO blobs VALUES(?,?,?,?,?)", blob).rowcount)

    async def get_blob(self, blob: BlobId) -> BlobRecord | None:
        """See the port."""
        row = await self._reader.call(lambda connection: connection.execute("SELECT * FROM blobs WHERE id=?", (blob,)).fetchone())
        return BlobRecord(*row) if row else None

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        """See the port."""
        await self._writer.call(lambda connection: _project(connection, partition, sequence, runs, items, gone))

    async def projected(self, partition: Partition) -> int:
        """See the port."""
        return await self._reader.call(lambda connection: _projected(connection, partition))

    async def get_run(self, run: RunId) -> RunRow | None:
        """See the port."""
        row = await self._reader.call(lambda connection: connection.execute(f"{_SELECT_RUN} run=?", (run,)).fetchone())
        return _run(*row) if row else None

    async def list_runs(self, query: RunQuery) -> Sequence[RunRow]:
        """See the port."""
        return await self._reader.call(lambda connection: _list_runs(connection, query))

    async def get_items(self, run: RunId, first: int = 0, limit: int | None = None) -> Sequence[ItemRow]:
        """See the port."""
        select = "SELECT row FROM items WHERE run=? AND item>=? ORDER BY item LIMIT ?"
        values = (run, first, -1 if limit is None else limit)
        return await self._reader.call(lambda connection: [_decode_item(row[0]) for row in connection.execute(select, values)])

    def _connect_writer(self) -> Connection:
        connection = connect_first(self._path, self._busy_seconds)
        try:
            migrate(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _translate(self, error: Exception) -> Exception:
        fault = classify(error)
        message, hint = describe(error, f"the store {self._path}")
        return _ERRORS.get(fault, StoreError)(message, hint=hint)


def _project(
    connection: Connection,
    partition: Partition,
    sequence: int,
    runs: Sequence[RunRow],
    items: Sequence[ItemRow],
    gone: Sequence[RunGone],
) -> None:
    if sequence < _projected(connection, partition):
        return
    connection.execute("INSERT OR REPLACE INTO projected VALUES(?,?)", (partition, sequence))
    if runs:
        rows = [
            (row.run, row.namespace, row.status, row.flow_name, row.root, row.parent, row.created_ms, _rest(row), row.depth) for row in runs
        ]
        connection.executemany(_UPSERT_RUN, rows)
    if items:
        connection.executemany("INSERT OR REPLACE INTO items VALUES(?,?,?)", [(row.run, row.item, _encode(row)) for row in items])
    for tree in gone:
        connection.execute("DELETE FROM items WHERE run IN (SELECT run FROM runs WHERE root=?)", (tree.root,))
        connection.execute("DELETE FROM runs WHERE root=?", (tree.root,))


def _projected(connection: Connection, partition: Partition) -> int:
    row = connection.execute("SELECT sequence FROM projected WHERE partition=?", (partition,)).fetchone()
    return row[0] if row else 0


def _list_runs(connection: Connection, query: RunQuery) -> list[RunRow]:
    filters: dict[str, str | None] = {"status": query.status, "flow_name": query.flow_name, "root": query.root, "parent": query.parent}
    wanted = {"namespace": query.namespace, **{column: value for column, value in filters.items() if value is not None}}
    depth = [] if query.max_depth is None else [query.max_depth]
    more = [*(["root=run"] if query.roots_only else []), *(["depth<=?"] if depth else [])]
    where = " AND ".join([*(f"{column}=?" for column in wanted), *more])
    select = f"{_SELECT_RUN} {where} ORDER BY created_ms DESC, run DESC LIMIT ? OFFSET ?"
    return [_run(*row) for row in connection.execute(select, (*wanted.values(), *depth, query.limit, query.offset))]


def _rest(row: RunRow) -> bytes:
    """All that is not in a column."""
    return _encode(structs.replace(row, run="", namespace="", status="", flow_name="", root="", created_ms=0))


def _run(rest: bytes, run: str, namespace: str, status: str, flow_name: str, root: str, created_ms: int) -> RunRow:
    """Also of a row that an earlier release wrote, which has in it what the columns say."""
    named = {"run": RunId(run), "namespace": Namespace(namespace), "root": RunId(root)}
    return structs.replace(_decode_rest(rest), **named, status=status, flow_name=flow_name, created_ms=created_ms)


def _delete_flow(connection: Connection, flow: FlowId) -> bool:
    blobs = connection.execute("DELETE FROM blobs WHERE id=? AND kind='flow'", (flow,)).rowcount
    return connection.execute("DELETE FROM flows WHERE id=?", (flow,)).rowcount + blobs > 0
