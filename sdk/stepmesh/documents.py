"""What a user may give for a flow: a stored flow's id, a document, a `Flow`, or a file; and how it becomes text.

Invariant: numbers and key order are kept, since a flow's id is the hash of its document. Checking a flow is the
orchestrator's work; this module must know neither the flow language nor YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stepmesh import payloads
from stepmesh.errors import BadFlow
from stepmesh_broker.protocol.ids import FlowId

_ID = re.compile(r"[0-9a-f]{64}")


@runtime_checkable
class HasDocument(Protocol):
    """Anything that can tell its flow document, such as `Flow`."""

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON-like data."""
        ...


FlowLike = str | Path | Mapping[str, Any] | HasDocument
"""A flow's id (64 hex digits) or file path, a document, or a `Flow`."""


def known_id(flow: FlowLike) -> FlowId | None:
    """The id, when the flow is given by it."""
    return FlowId(flow) if isinstance(flow, str) and _ID.fullmatch(flow) else None


def text(flow: FlowLike) -> bytes:
    """The flow as text: JSON, or what the file holds (the orchestrator reads YAML as well). Raises `BadFlow`."""
    if isinstance(flow, HasDocument):
        return payloads.write(flow.to_dict())
    if isinstance(flow, Mapping):
        return payloads.write(flow)
    if not isinstance(flow, (str, Path)):
        raise BadFlow(f"a {type(flow).__name__} is not a flow", hint="give a document, a Flow, a path or a flow id")
    try:
        return Path(flow).read_bytes()
    except OSError as problem:
        raise BadFlow(f"cannot read the flow {flow}: {problem.strerror or problem}", hint="check the path") from problem
