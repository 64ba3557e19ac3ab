"""JSON ⇄ protobuf values."""

from __future__ import annotations

import math

import msgspec
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_gateway.translate.values import EXACT, MANY, NoJson, from_struct, from_value, to_struct, to_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, int):
        return left == right
    return msgspec.json.encode(left, order="deterministic") == msgspec.json.encode(right, order="deterministic") or left == right


@given(JSON)
def test_a_value_survives_the_way_there_and_back(value: object) -> None:
    sent = to_value(msgspec.json.encode(value))
    assert same(value, msgspec.json.decode(from_value(Value.FromString(sent.SerializeToString()))))


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_text_does_not_depend_on_the_order_of_keys(members: dict[str, object]) -> None:
    turned = dict(reversed(members.items()))
    assert from_struct(to_struct(msgspec.json.encode(members))) == from_struct(to_struct(msgspec.json.encode(turned)))


@pytest.mark.parametrize(("number", "text"), [(42.0, b"42"), (-0.5, b"-0.5"), (float(EXACT), b"9007199254740992"), (1e300, b"1e300")])
def test_whole_numbers_are_integers_as_far_as_doubles_are_exact(number: float, text: bytes) -> None:
    assert from_value(Value(number_value=number)) == text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused_with_its_path(number: float) -> None:
    struct = Struct()
    struct.fields["a"].list_value.values.add().number_value = number
    with pytest.raises(NoJson, match=r"SM-7001 the number at \$\.a\[0\]"):
        from_struct(struct)


def test_nothing_set_is_null() -> None:
    assert from_value(Value()) == b"null"


def test_empty_containers_stay_what_they_are() -> None:
    assert from_value(to_value(b'{"a":[],"b":{}}')) == b'{"a":[],"b":{}}'


@pytest.mark.parametrize(("depth", "fits"), [(45, True), (46, False)])
def test_the_deepest_array_that_protobuf_readers_take(depth: int, fits: bool) -> None:
    text = b"[" * depth + b"1" + b"]" * depth
    if not fits:
        with pytest.raises(NoJson, match="nested deeper"):
            to_value(text)
        return
    assert from_value(Value.FromString(to_value(text).SerializeToString())) == text


def test_a_number_beyond_all_doubles_is_refused() -> None:
    with pytest.raises(NoJson, match="beyond all doubles"):
        to_value(b"1" + b"0" * 400)


NUMBERS = st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS, min_size=MANY - 1, max_size=MANY + 20))
def test_long_lists_of_numbers_are_what_short_ones_are(numbers: list[float]) -> None:
    one_by_one = Value()
    for number in numbers:
        one_by_one.list_value.values.add().number_value = number
    packed = to_value(msgspec.json.encode(numbers))
    assert packed == one_by_one
    assert [*msgspec.json.decode(from_value(packed))] == numbers


@pytest.mark.parametrize("other", ["null", "true", '"x"', "[1]", "{}"])
@pytest.mark.parametrize("place", [0, 15, 30])
def test_a_long_list_with_something_else_in_it(place: int, other: str) -> None:
    members = [str(n) for n in range(30)]
    members.insert(place, other)
    text = f"[{','.join(members)}]".encode()
    assert from_value(to_value(text)) == text


def test_a_long_list_with_fields_that_nobody_knows() -> None:
    entry = b"\n\x0b\x11" + b"\0" * 8 + b"\x48\x01"
    assert from_value(Value(list_value=ListValue.FromString(entry * 40))) == b"[" + b",".join([b"0"] * 40) + b"]"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_long_list_with_a_number_that_json_does_not_have(number: float) -> None:
    value = Value()
    for index in range(40):
        value.struct_value.fields["b"].list_value.values.add().number_value = number if index == 33 else index
    with pytest.raises(NoJson, match=r"the number at input\.b\[33\] is"):
        from_value(value, "input")


@pytest.mark.parametrize("text", [b"1" + b"0" * 400, b"[%b]" % b",".join([b"1" + b"0" * 400] * 20)])
def test_numbers_beyond_all_doubles_are_refused_wherever_they_are(text: bytes) -> None:
    with pytest.raises(NoJson, match="beyond all doubles"):
        to_value(text)
    with pytest.raises(NoJson, match="beyond all doubles"):
        to_struct(b'{"a":%b}' % text)


def test_whole_numbers_beyond_exactness_are_rounded_as_doubles_are() -> None:
    assert from_value(to_value(b"[%d]" % (2**53 + 1))) == b"[9007199254740992]"
    assert msgspec.json.decode(from_value(to_value(b"[%b]" % b",".join([b"%d" % (2**60 + 1)] * 20)))) == [float(2**60)] * 20


def test_only_objects_become_structs() -> None:
    with pytest.raises(NoJson, match="not an object"):
        to_struct(b"[1]")
