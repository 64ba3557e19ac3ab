"""Requests that nobody meant: messages made from descriptors, and bytes that are almost, or not at all, messages. Strategies only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

DEEP = 60
F = FieldDescriptor
_INTEGERS: dict[int, tuple[int, int]] = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Known:
    """What exists: names by what they name, and bytes that mean something to some RPC."""

    def __init__(self, names: Mapping[str, Sequence[str]], payloads: Sequence[bytes]) -> None:
        self.all = [name for some in names.values() for name in some]
        self._names = names
        self._payloads = payloads

    def texts(self, field: str = "") -> st.SearchStrategy[str]:
        """Mostly what a field of that name may hold; else names of something else, names that almost exist, and anything."""
        near = st.builds(lambda text, cut: text[:cut] + text[cut + 1 :], st.sampled_from(self.all), st.integers(0, 40))
        strange = st.text(max_size=20) | st.sampled_from(["", "\0", "x" * 5000, "../..", "%s%n", "\U0010ffff", ">", "*"])
        others = st.sampled_from(self.all) | near | strange
        fitting = next((some for part, some in self._names.items() if part in field), None)
        return others if fitting is None else st.integers(0, 4).flatmap(lambda n: st.sampled_from(fitting) if n else others)

    def payloads(self) -> st.SearchStrategy[bytes]:
        """Of bytes fields."""
        return st.binary(max_size=40) | st.sampled_from(self._payloads) | st.sampled_from(self._payloads)


def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    small = st.integers(max(low, -2), 5)
    return small | st.integers(low, high) | st.sampled_from([low, high, high - 1, min(high, 2**53 + 1)])


def values() -> st.SearchStrategy[Any]:
    """What a `google.protobuf.Value` may hold, as Python; NaN and deep nesting as well."""
    leaves = st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | st.text(max_size=8)
    tree = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
    )
    deep = st.builds(_nested, st.integers(1, DEEP), st.booleans())
    numbers = st.lists(st.floats(), min_size=20, max_size=40)
    return tree | deep | numbers


def _nested(levels: int, objects: bool) -> Any:
    found: Any = 1.0
    for _ in range(levels):
        found = {"a": found} if objects else [found]
    return found


def fill_value(value: Any, found: Any) -> None:
    """Write Python data into a `Value`; unlike the gateway's own way it writes whatever it is given."""
    if found is None:
        value.null_value = 0
    elif isinstance(found, bool):
        value.bool_value = found
    elif isinstance(found, (int, float)):
        value.number_value = found
    elif isinstance(found, str):
        value.string_value = found
    elif isinstance(found, dict):
        value.struct_value.SetInParent()
        for key, member in found.items():
            fill_value(value.struct_value.fields[key], member)
    else:
        value.list_value.SetInParent()
        for member in found:
            fill_value(value.list_value.values.add(), member)


def _scalars(field: FieldDescriptor, known: Known) -> st.SearchStrategy[Any]:
    if field.cpp_type in _INTEGERS:
        return _integers(*_INTEGERS[field.cpp_type])
    if field.cpp_type == F.CPPTYPE_ENUM:
        valid = st.sampled_from([value.number for value in field.enum_type.values])
        return valid | valid | valid | st.integers(-3, 12) | st.sampled_from([2**31 - 1, -(2**31)])
    if field.cpp_type == F.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == F.CPPTYPE_STRING and field.type == F.TYPE_STRING:
        return known.texts(field.name)
    if field.cpp_type == F.CPPTYPE_STRING:
        return known.payloads()
    return st.floats(width=32) if field.cpp_type == F.CPPTYPE_FLOAT else st.floats()


@st.composite
def messages(draw: Any, kind: Descriptor, known: Known, depth: int = 3) -> Any:
    """A message of any type: fields are there or not, with values that are known or strange."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if draw(st.integers(0, 3)) == 0 or (depth == 0 and field.message_type is not None):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(draw, message, field, known, depth)
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 3))):
                _add(draw, message, field, known, depth)
        elif field.message_type is not None:
            _copy(draw, getattr(message, field.name), field.message_type, known, depth)
        else:
            setattr(message, field.name, draw(_scalars(field, known)))
    return message


def _copy(draw: Any, target: Any, kind: Descriptor, *rest: Any) -> None:
    known, depth = rest
    if kind.full_name == "google.protobuf.Value":
        fill_value(target, draw(values()))
    elif kind.full_name == "google.protobuf.Struct":
        target.SetInParent()
        for key in draw(st.lists(known.texts(), max_size=3)):
            fill_value(target.fields[key], draw(values()))
    else:
        target.CopyFrom(draw(messages(kind, known, depth - 1)))


def _add(draw: Any, message: Any, field: FieldDescriptor, *rest: Any) -> None:
    if field.message_type is not None:
        _copy(draw, getattr(message, field.name).add(), field.message_type, *rest)
    else:
        getattr(message, field.name).append(draw(_scalars(field, rest[0])))


def _fill_map(draw: Any, message: Any, field: FieldDescriptor, *rest: Any) -> None:
    value = field.message_type.fields_by_name["value"]
    for key in draw(st.lists(rest[0].texts(), max_size=3)):
        if value.message_type is not None:
            _copy(draw, getattr(message, field.name)[key], value.message_type, *rest)
        else:
            getattr(message, field.name)[key] = draw(_scalars(value, rest[0]))


# --- bytes ---


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _unknown_field(number: int, wire: int, body: bytes) -> bytes:
    start = _varint(number << 3 | wire)
    return start + (_varint(len(body)) + body if wire == 2 else body)


def _nest(field: int, levels: int) -> bytes:
    """A message inside a message inside …, from the inside out."""
    data = b""
    for _ in range(levels):
        data = _unknown_field(field, 2, data)
        if len(data) > 60_000:
            break
    return data


def damaged(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that were a message: cut, changed, with fields of other types, unknown ones, or lengths that are lies."""
    place = st.integers(0, 2**16)
    return st.one_of(
        st.builds(lambda d, n: d[: n % (len(d) + 1)], data, place),
        st.builds(lambda d, n, b: d[: n % (len(d) + 1)] + bytes([b]) + d[n % (len(d) + 1) + 1 :], data, place, st.integers(0, 255)),
        st.builds(lambda d, n, x: d[: n % (len(d) + 1)] + x + d[n % (len(d) + 1) :], data, place, st.binary(min_size=1, max_size=8)),
        st.builds(lambda d, *f: d + _unknown_field(*f), data, st.integers(1, 2**29 - 1), st.integers(0, 7), st.binary(max_size=12)),
        st.builds(lambda d, field, wire: d + _unknown_field(field, wire, b"\x01\xff"), data, st.integers(1, 12), st.integers(0, 7)),
        st.builds(lambda d, field, size: d + _varint(field << 3 | 2) + _varint(size), data, st.integers(1, 12), st.integers(1, 2**63)),
        st.builds(_nest, st.integers(1, 6), st.integers(80, 3000)),
        st.builds(lambda d: d + d, data),
        st.binary(max_size=200),
    )
