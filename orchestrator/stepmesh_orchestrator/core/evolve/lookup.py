"""What an applier may ask about flows: only what is loaded already, by the ids in the event."""

from __future__ import annotations

from typing import Protocol

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow


class FlowLookup(Protocol):
    """Compiled flows that are loaded."""

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """By id and overrides; None when it is not loaded."""
        ...
