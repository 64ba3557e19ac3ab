"""SQLite as the journal and the store use it: one thread per connection, and what its errors mean."""

from stepmesh_orchestrator.sqlite.connection import connect, make_folder
from stepmesh_orchestrator.sqlite.faults import Fault, classify, describe
from stepmesh_orchestrator.sqlite.thread import SqliteThread

__all__ = ["Fault", "SqliteThread", "classify", "connect", "describe", "make_folder"]
