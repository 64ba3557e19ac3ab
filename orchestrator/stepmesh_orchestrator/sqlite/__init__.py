"""SQLite as the journal and the store use it: one thread per connection, and what its errors mean."""

from stepmesh_orchestrator.sqlite.connection import connect, connect_first
from stepmesh_orchestrator.sqlite.faults import ERRORS, Fault, classify, describe
from stepmesh_orchestrator.sqlite.thread import SqliteThread
from stepmesh_orchestrator.sqlite.wal import DamagedLog, check_log

__all__ = ["ERRORS", "DamagedLog", "Fault", "SqliteThread", "check_log", "classify", "connect", "connect_first", "describe"]
