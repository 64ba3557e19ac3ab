"""The journal in PostgreSQL, for its contract."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.postgres import PostgresJournal
from stepmesh_orchestrator.ports import Journal


def drop_schema(url: str, namespace: Namespace) -> None:
    """Forget all that a namespace has."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(f"stepmesh_{namespace}")))


class PostgresBackend:
    durability = "fsync"
    survives = "power loss, as long as the server's disk"
    lost_end = ""

    def __init__(self, url: str, namespace: Namespace) -> None:
        self.url = url
        self.namespace = namespace
        self.schema = sql.Identifier(f"stepmesh_{self.namespace}")
        self.journal: Journal = PostgresJournal(url, self.namespace)

    async def reopened(self) -> Journal:
        await self.journal.close()
        self.journal = PostgresJournal(self.url, self.namespace)
        await self.journal.open()
        return self.journal

    def drop(self) -> None:
        """Forget all of it."""
        drop_schema(self.url, self.namespace)

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        self._put("frames", partition, sequence, fields)

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        assert self._run("DELETE FROM {schema}.frames WHERE partition=%s AND sequence=%s", partition, sequence) == 1

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        self._put("snapshots", partition, sequence, fields)

    def _put(self, table: str, partition: Partition, sequence: int, fields: dict[str, Any]) -> None:
        """A column has one type: the only value of another one that it can hold is NULL."""
        for name, value in fields.items():
            names = {"table": sql.Identifier(table), "column": sql.Identifier(name)}
            if isinstance(value, str):
                self._run("ALTER TABLE {schema}.{table} ALTER {column} DROP NOT NULL", **names)
                value = None
            update = "UPDATE {schema}.{table} SET {column}=%s WHERE partition=%s AND sequence=%s"
            assert self._run(update, value, partition, sequence, **names) == 1

    def _run(self, statement: str, *values: object, **names: sql.Identifier) -> int:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql.SQL(statement).format(schema=self.schema, **names), values or None).rowcount
