"""JSON text ⇄ `google.protobuf.Value` and `Struct`, as stepflow.v1 carries data.

A protobuf number is a double and a Struct has no order of keys. So that the same data always gives the same text (and the same
content id), a whole number within ±2^53 becomes an integer and keys are sorted. On the way out an integer beyond that is rounded,
because the message has no room for it; stepmesh.v1 and REST carry JSON itself and lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from stepmesh_broker.errors import StepmeshError

EXACT = 2**53
"""Whole doubles up to here are integers (ECMA-262, Number.MAX_SAFE_INTEGER + 1)."""
LEVELS = 90
"""Nested messages in one value at most; protobuf readers refuse more than 100. An array costs two, an object three."""


class NoJson(StepmeshError):
    """A value that JSON or protobuf cannot hold; the message has its path."""

    default_code = "SM-7001"


def to_value(json: bytes) -> Value:
    """JSON text as a message. Raises `NoJson` for what is nested too deep or a number beyond all doubles."""
    return plain_value(msgspec.json.decode(json))


def to_struct(json: bytes) -> Struct:
    """The text of a JSON object as a message. Raises `NoJson`."""
    found = msgspec.json.decode(json)
    if not isinstance(found, dict):
        raise NoJson("the value at $ is not an object", hint="send an object")
    struct = Struct()
    for key, member in found.items():
        _fill(struct.fields[key], member, LEVELS)
    return struct


def plain_value(found: Any) -> Value:
    """Decoded JSON as a message. Raises `NoJson` as `to_value` does."""
    value = Value()
    _fill(value, found, LEVELS)
    return value


def from_value(value: Value, name: str = "$") -> bytes:
    """A message as compact JSON text. `name`: what paths begin with. Raises `NoJson` for NaN and infinity."""
    return msgspec.json.encode(_plain(value, (name,)), order="deterministic")


def from_members(fields: Mapping[str, Value], name: str = "$") -> bytes:
    """The same for the fields of a Struct or a map: the text of an object."""
    return msgspec.json.encode({key: _plain(fields[key], (name, key)) for key in fields}, order="deterministic")


def from_struct(struct: Struct, name: str = "$") -> bytes:
    """The same for a Struct."""
    return from_members(struct.fields, name)


def _fill(value: Value, found: Any, levels: int) -> None:
    if levels < 0:
        raise NoJson(f"the value is nested deeper than {LEVELS} protobuf messages", hint="flatten it, or put it into a blob")
    if found is None:
        value.null_value = NULL_VALUE
    elif isinstance(found, str):
        value.string_value = found
    elif isinstance(found, bool):
        value.bool_value = found
    elif isinstance(found, (int, float)):
        try:
            value.number_value = found
        except OverflowError:
            raise NoJson("a number is beyond all doubles", hint="send it as a string") from None
    elif isinstance(found, dict):
        struct = value.struct_value
        struct.SetInParent()
        fields = struct.fields
        for key, member in found.items():
            _fill(fields[key], member, levels - 3)
    else:
        items = value.list_value
        items.SetInParent()
        for member in found:
            _fill(items.values.add(), member, levels - 2)


def _plain(value: Value, path: tuple[str | int, ...]) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value, path)
    if kind == "struct_value":
        fields = value.struct_value.fields
        return {key: _plain(fields[key], (*path, key)) for key in fields}
    if kind == "list_value":
        return [_plain(member, (*path, index)) for index, member in enumerate(value.list_value.values)]
    return value.bool_value if kind == "bool_value" else None


def _number(number: float, path: tuple[str | int, ...]) -> int | float:
    if not math.isfinite(number):
        where = f"{path[0]}" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:])
        raise NoJson(f"the number at {where} is {number}, which JSON does not have", hint="send null or a string")
    return int(number) if number.is_integer() and -EXACT <= number <= EXACT else number
