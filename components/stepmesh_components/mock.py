"""Components whose answers are written in a configuration: the `mock` plugin, for tests of flows.

Invariant: an input matches a behaviour when both are the same JSON value, whatever their spacing and key order (`1` is not `1.0`).
What is wrong with the configuration is one `BadComponent` when the worker is made, never a surprise in a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from stepmesh import BadComponent, ComponentError, Context, ErrorCode
from stepmesh.component import Component

_SHOWN = 10
_CANONICAL = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Behavior:
    """What one input leads to: `result` (JSON) or `error`, after `delay_ms`."""

    result: bytes = b"null"
    error: Mapping[str, Any] | None = None
    delay_ms: float = 0


def mock_component(path: str, described: Mapping[str, Any]) -> Component:
    """The component of one entry of a mock plugin's `components`. Raises `BadComponent`."""
    _only(described, {"input_schema", "output_schema", "behaviors", "description"}, f"mock component {path}")
    behaviors = described.get("behaviors", {})
    if not isinstance(behaviors, Mapping):
        raise BadComponent(f"mock component {path}: behaviors is not an object", hint="write {'{\"x\": 1}': {outcome: success, result: 2}}")
    known = {_key(path, text): _behavior(f"mock component {path}, input {text}", told) for text, told in behaviors.items()}
    schemas = (_schema(described.get("input_schema")), _schema(described.get("output_schema")))
    description = str(described.get("description") or "a mock")
    return Component(path, path.rsplit("/", 1)[-1], description, True, None, _read, _invoke(path, known), *schemas)


def _only(told: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(told) - known):
        raise BadComponent(f"{what}: {', '.join(unknown)} is not understood", hint=f"known: {', '.join(sorted(known))}")


def _key(path: str, text: Any) -> bytes:
    try:
        return _CANONICAL.encode(msgspec.json.decode(text))
    except (msgspec.MsgspecError, TypeError) as problem:
        raise BadComponent(f"mock component {path}: the input {text!r} is not JSON: {problem}", hint="quote strings inside it") from problem


def _behavior(where: str, told: Any) -> Behavior:
    if not isinstance(told, Mapping):
        raise BadComponent(f"{where}: not an object", hint="write {outcome: success, result: …} or {error: message}")
    _only(told, {"outcome", "result", "error", "delay_ms"}, where)
    fails = told.get("error") is not None
    outcome = told.get("outcome", "failed" if fails else "success")
    if outcome not in ("success", "failed") or (outcome == "failed") != fails:
        raise BadComponent(f"{where}: outcome {outcome!r} does not fit", hint="success goes with result, failed with error")
    delay_ms = float(told.get("delay_ms") or 0)
    if outcome == "failed":
        return Behavior(error=_error(where, told["error"]), delay_ms=delay_ms)
    return Behavior(msgspec.json.encode(told.get("result")), delay_ms=delay_ms)


def _error(where: str, told: Any) -> Mapping[str, Any]:
    """Keyword arguments of `ComponentError`."""
    if isinstance(told, str):
        return {"message": told}
    if not isinstance(told, Mapping):
        raise BadComponent(f"{where}: error is neither text nor an object", hint="write {code: COMPONENT_FAILED, message: …}")
    _only(told, {"code", "message", "data"}, where)
    code = told.get("code", "COMPONENT_FAILED")
    try:
        known = ErrorCode[code] if isinstance(code, str) else ErrorCode(code)
    except (KeyError, ValueError) as problem:
        names = ", ".join(one.name for one in ErrorCode)
        raise BadComponent(f"{where}: {code!r} is no error code", hint=f"use one of {names}") from problem
    return {"message": str(told.get("message", "mock error")), "code": known, "data": told.get("data")}


def _schema(schema: Any) -> bytes | None:
    return msgspec.json.encode(schema) if schema else None


def _read(data: bytes) -> bytes:
    """The input as the text that behaviours are looked up by."""
    return _CANONICAL.encode(msgspec.json.decode(data))


def _invoke(path: str, known: Mapping[bytes, Behavior]) -> Callable[[bytes, Context], Coroutine[Any, Any, msgspec.Raw]]:
    async def behave(value: bytes, _context: Context) -> msgspec.Raw:
        behavior = known.get(value)
        if behavior is None:
            raise ComponentError(_unknown(path, value, known))
        if behavior.delay_ms:
            await asyncio.sleep(behavior.delay_ms / 1000)
        if behavior.error is not None:
            raise ComponentError(**behavior.error)
        return msgspec.Raw(behavior.result)

    return behave


def _unknown(path: str, value: bytes, known: Mapping[bytes, Behavior]) -> str:
    inputs = [key.decode() for key in list(known)[:_SHOWN]]
    more = f" … ({len(known)} in all)" if len(known) > _SHOWN else ""
    shown = value.decode() if len(value) <= 500 else value[:500].decode(errors="ignore") + "…"
    return f"the mock {path} has no behaviour for the input {shown}; known inputs: {', '.join(inputs) or 'none'}{more}"
