"""Backends of the Store port."""

from stepmesh_orchestrator.store.memory import MemoryStore

__all__ = ["MemoryStore"]
