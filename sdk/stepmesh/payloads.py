"""Typed values ⇄ JSON text, from a Python annotation: reader, writer, schema.

Invariants: what cannot be represented is refused with its path, never changed in silence (NaN does not become null);
integers keep every digit. pydantic is used only for annotations that hold pydantic types, so it is never imported first
here. This module must not know components, tasks or brokers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec

from stepmesh.errors import BadComponent, InvalidInput
from stepmesh.paths import path_text, step_text

Reader = Callable[[bytes], Any]
"""JSON text → value. Raises `InvalidInput` with `data = {path, violations: [{path, message}]}`."""
Writer = Callable[[Any], bytes]
"""Value → compact JSON text. Raises `NotJson`."""

_AT = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)


class NotJson(Exception):
    """A value that JSON cannot hold. `path` is where, e.g. `$.rows[2]`; `kind` is the name of the type found there."""

    def __init__(self, path: str, kind: str, reason: str) -> None:
        super().__init__(f"{path} ({kind}): {reason}")
        self.path = path
        self.kind = kind


def holds_pydantic(annotation: Any) -> bool:
    """Whether a pydantic model or dataclass is in the annotation."""
    return hasattr(annotation, "__pydantic_core_schema__") or any(holds_pydantic(part) for part in get_args(annotation))


def reader(annotation: Any) -> Reader:
    """Raises `BadComponent` for a type that cannot be read from JSON."""
    if holds_pydantic(annotation):
        return _pydantic_reader(annotation)
    try:
        decoder = msgspec.json.Decoder(annotation)
    except TypeError as problem:
        raise BadComponent(f"cannot read {annotation!r} from JSON: {problem}", hint=_HINT) from problem
    return _msgspec_reader(decoder.decode)


_HINT = "use a msgspec Struct, pydantic model, dataclass, TypedDict, a builtin type or Any"


def _msgspec_reader(decode: Reader) -> Reader:
    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            message, path = _AT.fullmatch(str(problem)).groups()  # type: ignore[union-attr]  # the pattern matches any text
            raise _violated([(path or "$", message)]) from problem

    return read


def _pydantic_reader(annotation: Any) -> Reader:
    import pydantic

    adapter = pydantic.TypeAdapter(annotation)

    def read(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except pydantic.ValidationError as problem:
            found = problem.errors(include_url=False, include_context=False, include_input=False)
            raise _violated([(path_text(error["loc"]), error["msg"]) for error in found]) from problem

    return read


def _violated(found: list[tuple[str, str]]) -> InvalidInput:
    path, message = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    violations = [{"path": path, "message": message} for path, message in found[:50]]
    return InvalidInput(f"invalid input: {message} at {path}{more}", path=path, data={"path": path, "violations": violations})


def schema(annotation: Any, lenient: bool = False) -> bytes | None:
    """JSON Schema as JSON text; None when anything goes. A type without one counts as anything if `lenient`, else raises `BadComponent`."""

    def unknown(kind: type) -> dict[str, Any]:
        if lenient or kind is object:
            return {"description": f"any JSON value ({kind.__qualname__})"}  # msgspec takes an empty schema for none
        raise NotImplementedError

    if annotation in (Any, object, dict, msgspec.Raw):
        return None
    if holds_pydantic(annotation):
        import pydantic

        return msgspec.json.encode(pydantic.TypeAdapter(annotation).json_schema())
    try:
        return msgspec.json.encode(msgspec.json.schema(annotation, schema_hook=unknown))
    except TypeError as problem:
        raise BadComponent(f"no JSON Schema for {annotation!r}: {problem}", hint=_HINT) from problem


def _foreign(value: Any) -> Any:
    """What msgspec does not know: pydantic models and NumPy values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__qualname__} is not JSON")


_encode = msgspec.json.Encoder(enc_hook=_foreign).encode


def write(value: Any) -> bytes:
    """Any supported value → compact JSON text. Raises `NotJson`."""
    if value is None:
        return b"null"
    try:
        encoded = _encode(value)
    except Exception as problem:
        raise _locate(value, problem) from problem
    if b"null" in encoded:  # msgspec writes NaN and infinities as null
        try:
            _refuse_nan(value, "$")
        except RecursionError as problem:
            raise NotJson("$", type(value).__qualname__, "nested too deeply") from problem
    return encoded


def _locate(value: Any, problem: Exception) -> NotJson:
    """Where in `value` the encoder gave up: walks down the first part that cannot be encoded alone."""
    path, depth = "$", 0
    while depth < 1000:
        bad = next(((step, part) for step, part in _parts(value) if not _encodes(part)), None)
        if bad is None:
            return NotJson(path, type(value).__qualname__, str(problem))
        path, value, depth = path + bad[0], bad[1], depth + 1
    return NotJson(path[:200] + "…", type(value).__qualname__, "nested too deeply, or refers to itself")


def _encodes(value: Any) -> bool:
    try:
        _encode(value)
    except Exception:
        return False
    return True


def _refuse_nan(value: Any, path: str) -> None:
    if type(value).__module__ == "numpy" and not getattr(value, "ndim", False):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise NotJson(path, "float", f"{value} has no JSON form; use None or text")
    for step, part in _parts(value):
        _refuse_nan(part, path + step)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The direct parts of a container, each with its path step."""
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from ((step_text(index), part) for index, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((step_text(str(key)), part) for key, part in value.items())
    elif isinstance(value, msgspec.Struct):
        yield from ((step_text(name), getattr(value, name)) for name in value.__struct_fields__)
    elif hasattr(type(value), "__dataclass_fields__"):
        yield from ((step_text(field.name), getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "model_dump"):
        yield from _parts(value.model_dump())
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", False):
        yield from _parts(value.tolist())
