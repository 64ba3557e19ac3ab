"""Backends of the Store port."""

from stepmesh_orchestrator.store.folder import FolderBlobs
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_orchestrator.store.sqlite import SqliteStore, StoreCorrupt, StoreFull, StoreUnavailable

__all__ = ["FolderBlobs", "MemoryStore", "SqliteStore", "StoreCorrupt", "StoreFull", "StoreUnavailable"]
