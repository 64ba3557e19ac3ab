"""What the built-in components of the core take and give, for listings and editors. Their decoders are what counts: see builtins.py."""

from __future__ import annotations

from typing import Any

import msgspec

from stepmesh_broker.protocol.messages import ComponentInfo

_FLOW_ID = {"type": "string", "description": "Id of a stored flow, or of a blob that holds one."}
_FLOW = {"type": "object", "description": "A flow document, usually under $literal."}
_RESULT = {"type": "object", "required": ["outcome"], "properties": {"outcome": {"enum": ["success", "failed"]}, "result": {}, "error": {}}}
_DURATION = {"type": ["string", "number"]}
_MAYBE_TEXT = {"type": ["string", "null"]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _component(path: str, description: str, taken: dict[str, Any] | None, given: dict[str, Any] | None) -> ComponentInfo:
    input_schema, output_schema = (None if schema is None else msgspec.json.encode(schema) for schema in (taken, given))
    return ComponentInfo(path, description, input_schema, output_schema)


def core_components() -> list[ComponentInfo]:
    """Those that the engine carries out itself, by path under the `builtin` plugin."""
    sleep = _object(
        [], duration_ms={"type": "number", "minimum": 0}, duration={"type": ["string", "number"]}, until={"type": "string"}, passthrough={}
    )
    evaluate = _object([], flow_id=_FLOW_ID, flow=_FLOW, input={}, variables={"type": "object"})
    map_items = _object(
        ["items"], items={"type": "array"}, workflow=_FLOW, flow_id=_FLOW_ID, max_concurrency={"type": "integer", "minimum": 0}
    )
    iterate = _object([], flow=_FLOW, flow_id=_FLOW_ID, initial_input={}, max_iterations={"type": "integer", "minimum": 1})
    wait = _object(
        ["name"], name={"type": "string"}, key={"type": ["string", "integer"]}, timeout=_DURATION,
        since={"type": ["string", "number"], "description": "A time, or how long before the run's start."},
    )  # fmt: skip
    text = {"type": "string"}
    approval = _object([], title=text, description=text, timeout=_DURATION, approvers={"type": "array", "items": text})
    decision = _object(["approved", "at"], approved={"type": "boolean"}, by=_MAYBE_TEXT, comment=_MAYBE_TEXT, at=text)
    whole, results = {"type": "integer"}, {"type": "array", "items": _RESULT}
    return [
        _component("/approval", "Wait for somebody's decision, by a token.", approval, decision),
        _component("/eval", "Run a flow on one input.", evaluate, _object(["result", "run_id"], result=_RESULT, run_id={"type": "string"})),
        _component(
            "/iterate",
            "Run a flow on its own `next` until it gives `result`.",
            iterate,
            _object(["iterations", "terminated"], result={}, iterations=whole, terminated={"type": "boolean"}),
        ),
        _component(
            "/map",
            "Run a flow on each item.",
            map_items,
            _object(["results", "successful", "failed"], results=results, successful=whole, failed=whole),
        ),
        _component("/noop", "The output is the input.", None, None),
        _component("/sleep", "A durable timer; the output is `passthrough`.", sleep, None),
        _component("/wait_for_event", "Wait for an event from outside; the output is its data.", wait, None),
    ]
