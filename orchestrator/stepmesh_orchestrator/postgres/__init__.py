"""PostgreSQL as the journal, the store and the membership use it: connections, the schema of a namespace, and what its errors mean."""

from stepmesh_orchestrator.postgres.connections import Connection, PostgresConnections
from stepmesh_orchestrator.postgres.faults import ERRORS, Fault, classify, describe
from stepmesh_orchestrator.postgres.schema import ForeignSchema, migrate, schema_name

__all__ = [
    "ERRORS",
    "Connection",
    "Fault",
    "ForeignSchema",
    "PostgresConnections",
    "classify",
    "describe",
    "migrate",
    "schema_name",
]
