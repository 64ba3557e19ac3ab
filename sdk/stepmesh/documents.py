"""What a user may give for a flow: a stored flow's id, a document, a `Flow`, or a file; and how it becomes a document.

Invariant: numbers and key order are kept, since a flow's id is the hash of its document. Checking a flow is the
orchestrator's work; this module must not know the flow language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from stepmesh.errors import BadFlow
from stepmesh_broker.protocol.ids import FlowId

_ID = re.compile(r"[0-9a-f]{64}")


@runtime_checkable
class HasDocument(Protocol):
    """Anything that can tell its flow document, such as `Flow`."""

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON-like data."""
        ...


MAX_NODES = 1_000_000
"""Values in a flow file, with aliases written out."""
FlowLike = str | Path | Mapping[str, Any] | HasDocument
"""A flow's id (64 hex digits) or file path, a document, or a `Flow`."""


def known_id(flow: FlowLike) -> FlowId | None:
    """The id, when the flow is given by it."""
    return FlowId(flow) if isinstance(flow, str) and _ID.fullmatch(flow) else None


def document(flow: FlowLike) -> Mapping[str, Any]:
    """The flow as JSON-like data. Raises `BadFlow`."""
    if isinstance(flow, HasDocument):
        return flow.to_dict()
    if isinstance(flow, Mapping):
        return flow
    if isinstance(flow, (str, Path)):
        return _read(Path(flow))
    raise BadFlow(f"a {type(flow).__name__} is not a flow", hint="give a document, a Flow, a path or a flow id")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise BadFlow(f"cannot read the flow {path}: {problem.strerror or problem}", hint="check the path") from problem
    found = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if not isinstance(found, Mapping):
        raise BadFlow(f"{path} holds a {type(found).__name__}, not a flow", hint="a flow is an object with `steps` and `output`")
    return found


def _json(path: Path, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadFlow(f"{path} is not JSON: {problem}") from problem


def _yaml(path: Path, text: bytes) -> Any:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as problem:
        raise BadFlow(f"{path} is YAML, which this install cannot read", hint="pip install 'stepmesh[server]', or give JSON") from problem
    try:
        found = YAML(typ="safe", pure=True).load(text)
        nodes = _nodes(found, {})
    except (YAMLError, ValueError, RecursionError) as problem:
        raise BadFlow(f"{path} is not YAML: {problem}", hint="check it with `stepmesh validate`") from problem
    if nodes > MAX_NODES:
        raise BadFlow(f"{path} has {nodes} values once its aliases are written out, above the limit of {MAX_NODES}")
    return found


def _nodes(value: Any, known: dict[int, int]) -> int:
    """How many values JSON text of `value` holds; what aliases share is counted as often as it would be written."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(value)]
