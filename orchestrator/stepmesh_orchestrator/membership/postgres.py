"""The Membership port over PostgreSQL: two small tables beside the journal's; time is the server's clock.

A beat is one statement. Rows that ran out are left out at once and deleted an hour later, by whoever beats then. Must not know what holding
a partition means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

from psycopg.rows import TupleRow

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.ports import Member, Members, MembershipError, MembershipFull
from stepmesh_orchestrator.postgres import Connection, Fault, ForeignSchema, PostgresConnections, classify, describe, migrate, schema_name

TIMEOUT_S = 2.0
CONNECTIONS = 2

_STEPS: tuple[tuple[LiteralString, ...], ...] = (
    (
        "CREATE TABLE members(node text PRIMARY KEY, release text NOT NULL, leaving boolean NOT NULL, until timestamptz NOT NULL)",
        "CREATE TABLE leases(partition bigint PRIMARY KEY, node text NOT NULL, until timestamptz NOT NULL)",
    ),
)
# what is read is as it was before the statement: what the statement itself writes comes from its RETURNING
_BEAT: LiteralString = """WITH
    forgotten AS (DELETE FROM members WHERE node IN (SELECT node FROM members
        WHERE node<>%(node)s AND until<clock_timestamp() - interval '1 hour' FOR UPDATE SKIP LOCKED)),
    me AS (INSERT INTO members VALUES(%(node)s, %(release)s, %(leaving)s, clock_timestamp() + make_interval(secs=>%(ttl)s))
        ON CONFLICT(node) DO UPDATE SET release=excluded.release, leaving=excluded.leaving, until=excluded.until),
    mine AS (UPDATE leases SET until=clock_timestamp() + make_interval(secs=>%(ttl)s)
        WHERE node=%(node)s AND until>clock_timestamp() RETURNING partition)
    SELECT node, release, leaving, NULL::bigint FROM members WHERE node<>%(node)s AND until>clock_timestamp()
    UNION ALL SELECT node, NULL, NULL, partition FROM leases WHERE node<>%(node)s AND until>clock_timestamp()
    UNION ALL SELECT %(node)s, NULL, NULL, partition FROM mine"""
_TAKE: LiteralString = """INSERT INTO leases VALUES(%s, %s, clock_timestamp() + make_interval(secs=>%s)) ON CONFLICT(partition) DO UPDATE
    SET node=excluded.node, until=excluded.until WHERE leases.node=excluded.node OR leases.until<=clock_timestamp() RETURNING 1"""
_RELEASE: LiteralString = "DELETE FROM leases WHERE partition=%s AND node=%s RETURNING 1"
_LEAVE: LiteralString = """WITH held AS (DELETE FROM leases WHERE node=%(node)s)
    DELETE FROM members WHERE node=%(node)s RETURNING 1"""


class PostgresMembership:
    """Of `namespace`, in the database that `url` names. No call takes longer than `timeout_s`, and a little."""

    def __init__(self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S) -> None:
        self._schema = schema_name(namespace)
        self._where = f"{without_password(url)}, schema {self._schema}"
        self._connections = PostgresConnections(url, self._schema, self._translate, CONNECTIONS, timeout_s)

    async def open(self) -> None:
        """See the port. Raises `MembershipError`: SM-4031 for the tables of a newer release."""
        await self._connections.open(self._prepare)

    async def close(self) -> None:
        """See the port."""
        await self._connections.close()

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """See the port."""
        values = {**member._asdict(), "ttl": float(ttl_s)}
        members, leases = {member.node: member}, dict[Partition, str]()
        for node, release, leaving, partition in await self._run(_BEAT, values):
            if partition is None:
                members[node] = Member(node, release, leaving)
            else:
                leases[Partition(partition)] = node
        return Members(members, leases)

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """See the port."""
        return bool(await self._run(_TAKE, (partition, node, float(ttl_s))))

    async def release(self, partition: Partition, node: str) -> None:
        """See the port."""
        await self._run(_RELEASE, (partition, node))

    async def leave(self, node: str) -> None:
        """See the port."""
        await self._run(_LEAVE, {"node": node})

    async def _prepare(self, connection: Connection) -> None:
        try:
            await migrate(connection, self._schema, "membership", _STEPS)
        except ForeignSchema as problem:
            message = f"the membership in {self._where} is of a newer release: {problem}"
            refused = MembershipError(message, code="SM-4031", hint="run that release, or name another namespace")
            refused.retryable = False
            raise refused from None

    async def _run(self, statement: LiteralString, values: tuple[object, ...] | Mapping[str, object]) -> list[TupleRow]:
        async def job(connection: Connection) -> list[TupleRow]:
            return await (await connection.execute(statement, values, prepare=True)).fetchall()

        return await self._connections.run(job)

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the membership in {self._where}")
        return (MembershipFull if classify(error) is Fault.FULL else MembershipError)(message, hint=hint)
