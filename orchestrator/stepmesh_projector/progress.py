"""How far the projectors of a namespace are, as their checkpoints say: for those who must not forget what a projector still has to read.

Invariant: it only reads, and makes no table, so it works beside projectors of other releases. Must not know what a checkpoint holds.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.postgres import Connection, Fault, PostgresConnections, classify, describe, schema_name
from stepmesh_orchestrator.store.sqlite import StoreFull, StoreUnavailable

TIMEOUT_S = 10.0
_ERRORS: dict[Fault, type[StoreError]] = {Fault.FULL: StoreFull, Fault.AWAY: StoreUnavailable, Fault.DENIED: StoreUnavailable}
_IS_THERE: LiteralString = "SELECT to_regclass(quote_ident(current_schema()) || '.checkpoints') IS NOT NULL"


class Reached(NamedTuple):
    """A partition's checkpoint: after the frame `sequence`, whose last record lies at offset `position`."""

    sequence: int
    position: int


class Progress:
    """Of the projectors of `namespace` that write to the database that `url` names. Every call raises `StoreError`."""

    def __init__(self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S) -> None:
        schema = schema_name(namespace)
        self._where = f"{without_password(url)}, schema {schema}"
        self._connections = PostgresConnections(url, schema, lambda error: store_error(error, self._where), 1, timeout_s)

    async def open(self) -> None:
        """Connect."""
        await self._connections.open(_nothing)

    async def close(self) -> None:
        """Release. Idempotent."""
        await self._connections.close()

    async def kept(self, partition: Partition) -> int | None:
        """The frame after which a projector goes on; None before the first checkpoint."""
        found = (await self.all()).get(partition)
        return None if found is None else found.sequence

    async def all(self) -> dict[Partition, Reached]:
        """Of the partitions that have a checkpoint."""
        return await self._connections.run(_read)


def store_error(error: Exception, where: str) -> StoreError:
    """What an error of the database means for the projector's tables."""
    message, hint = describe(error, f"the projector's tables in {where}")
    return _ERRORS.get(classify(error), StoreError)(message, hint=hint)


async def _nothing(connection: Connection) -> None:
    await connection.execute("SELECT 1")


async def _read(connection: Connection) -> dict[Partition, Reached]:
    row = await (await connection.execute(_IS_THERE)).fetchone()
    if row is None or not row[0]:
        return {}
    found = await connection.execute("SELECT partition, sequence, position FROM checkpoints")
    return {Partition(partition): Reached(sequence, position) for partition, sequence, position in await found.fetchall()}
