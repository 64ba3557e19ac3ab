"""Backends of the Membership port."""

from stepmesh_orchestrator.membership.memory import MemoryMembership
from stepmesh_orchestrator.membership.sqlite import SqliteMembership

__all__ = ["MemoryMembership", "SqliteMembership"]
