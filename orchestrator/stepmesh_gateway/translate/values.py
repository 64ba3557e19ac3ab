"""JSON text ⇄ `google.protobuf.Value` and `Struct`, as stepflow.v1 carries data.

A protobuf number is a double and a Struct has no order of keys. So that the same data always gives the same text (and the same
content id), a whole number within ±2^53 becomes an integer and keys are sorted. On the way out an integer beyond that is rounded,
because the message has no room for it; stepmesh.v1 and REST carry JSON itself and lose nothing.
"""

from __future__ import annotations

import math
import struct as binary
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value

from stepmesh_broker.errors import StepmeshError

EXACT = 2**53
"""Whole doubles up to here are integers (ECMA-262, Number.MAX_SAFE_INTEGER + 1)."""
LEVELS = 90
"""Nested messages in one value at most; protobuf readers refuse more than 100. An array costs two, an object three."""
MANY = 16
"""From so many numbers on, a list is packed and unpacked as a whole: embeddings are long, and a message per number is dear."""
_NUMBER = b"\n\t\x11"
"""How a number begins as a member of a ListValue: field 1, 9 bytes; in them field 2, a double."""
_NUMBERS = binary.Struct("<3sd")
_KINDS = frozenset({int, float})


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
        _begin(struct.fields[key], member)
    return struct


def put_value(value: Value, json: bytes) -> None:
    """Write JSON text into an empty message. Raises `NoJson`; what is in it then means nothing."""
    _begin(value, msgspec.json.decode(json))


def plain_value(found: Any) -> Value:
    """Decoded JSON as a message. Raises `NoJson` as `to_value` does."""
    value = Value()
    _begin(value, found)
    return value


def from_value(value: Value, name: str = "$") -> bytes:
    """A message as compact JSON text. `name`: what paths begin with. Raises `NoJson` for NaN and infinity."""
    try:
        return msgspec.json.encode(_plain(value), order="deterministic")
    except _NotFinite:
        raise _refused(value, name) from None


def from_members(fields: Mapping[str, Value], name: str = "$") -> bytes:
    """The same for the fields of a Struct or a map: the text of an object."""
    try:
        return msgspec.json.encode({key: _plain(member) for key, member in fields.items()}, order="deterministic")
    except _NotFinite:
        raise _refused(fields, name) from None


def from_struct(struct: Struct, name: str = "$") -> bytes:
    """The same for a Struct."""
    return from_members(struct.fields, name)


# --- outwards -------------------------------------------------------------------------------------------------------


def _begin(value: Value, found: Any) -> None:
    try:
        _fill(value, found, LEVELS)
    except (OverflowError, binary.error):
        raise NoJson("a number is beyond all doubles", hint="send it as a string") from None


def _fill(value: Value, found: Any, levels: int) -> None:
    if levels < 0:
        raise NoJson(f"the value is nested deeper than {LEVELS} protobuf messages", hint="flatten it, or put it into a blob")
    kind = type(found)
    if kind is str:
        value.string_value = found
    elif kind is int or kind is float:
        value.number_value = found
    elif kind is dict:
        struct = value.struct_value
        if not found:
            struct.SetInParent()
        fields = struct.fields
        for key, member in found.items():
            _fill(fields[key], member, levels - 3)
    elif kind is list:
        _fill_list(value.list_value, found, levels - 2)
    elif kind is bool:
        value.bool_value = found
    else:
        value.null_value = NULL_VALUE


def _fill_list(items: ListValue, found: list[Any], levels: int) -> None:
    if not found:
        items.SetInParent()
    elif len(found) >= MANY and levels >= 0 and _KINDS.issuperset(map(type, found)):
        items.MergeFromString(b"".join([_NUMBERS.pack(_NUMBER, number) for number in found]))
    else:
        add = items.values.add
        for member in found:
            _fill(add(), member, levels)


# --- inwards --------------------------------------------------------------------------------------------------------


class _NotFinite(Exception):
    """Found on the way; where, is looked up only then."""


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "struct_value":
        return {key: _plain(member) for key, member in value.struct_value.fields.items()}
    if kind == "list_value":
        return _plain_list(value.list_value)
    return value.bool_value if kind == "bool_value" else None


def _plain_list(items: ListValue) -> list[Any]:
    members = items.values
    count = len(members)
    if count >= MANY and members[0].HasField("number_value"):
        data = items.SerializeToString()
        size = _NUMBERS.size
        if len(data) == count * size and all(data[index::size] == _NUMBER[index : index + 1] * count for index in range(len(_NUMBER))):
            return [_number(number) for _, number in _NUMBERS.iter_unpack(data)]
    return [_plain(member) for member in members]


def _number(number: float) -> int | float:
    if number.is_integer():
        return int(number) if -EXACT <= number <= EXACT else number
    if not math.isfinite(number):
        raise _NotFinite
    return number


def _refused(found: Value | Mapping[str, Value], name: str) -> NoJson:
    inside = _members(found) if isinstance(found, Mapping) else _within(found)
    path, number = next(inside)
    return NoJson(f"the number at {name}{path} is {number}, which JSON does not have", hint="send null or a string")


def _within(value: Value) -> Iterator[tuple[str, float]]:
    """Every number that is not finite, with its path from here."""
    if not math.isfinite(value.number_value):
        yield "", value.number_value
    yield from _members(value.struct_value.fields)
    for index, member in enumerate(value.list_value.values):
        yield from ((f"[{index}]{path}", number) for path, number in _within(member))


def _members(fields: Mapping[str, Value]) -> Iterator[tuple[str, float]]:
    for key in sorted(fields):
        yield from ((f".{key}{path}", number) for path, number in _within(fields[key]))
