"""JSON text: encoding, taking apart, and what is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow import jsontext
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAF = st.none() | st.booleans() | st.integers() | st.integers(-(10**60), 10**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=25)


def exactly(value: Any) -> str:
    """Tells 1 from 1.0 and true, and keeps key order."""
    return repr(value)


@given(JSON)
def test_any_json_round_trips_exactly(value: Any) -> None:
    assert exactly(jsontext.loads(jsontext.dumps(value))) == exactly(value)


@given(JSON)
def test_dumps_is_compact_valid_and_stable(value: Any) -> None:
    text = jsontext.dumps(value)
    assert jsontext.is_valid(text)
    assert jsontext.dumps(jsontext.loads(text)) == text
    assert json.loads(text) == value


def test_dumps_keeps_order_digits_and_characters() -> None:
    value = {"b": 12345678901234567890123, "a": [1.0, -0.0, "é\u2028\0"], "": None}
    assert jsontext.dumps(value) == '{"b":12345678901234567890123,"a":[1.0,-0.0,"é\u2028\\u0000"],"":null}'.encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), "\ud800", {"a": ["\udc00"]}, {"\ud800": 1}, [10**5_000]], ids=range(7)
)
def test_dumps_refuses_what_json_cannot_say(value: Any) -> None:
    with pytest.raises(ValueError):
        jsontext.dumps(value)


def test_dumps_refuses_other_types_and_bottomless_nesting() -> None:
    with pytest.raises(TypeError):
        jsontext.dumps({1, 2})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        jsontext.dumps(deep)
    with pytest.raises(ValueError, match="nested"):
        jsontext.loads(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b"-Infinity", b"{", b"", b'{"a":1,}', b'"\xff"'])
def test_loads_refuses_what_is_not_json(text: bytes) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_flow_id_is_the_hash_of_the_compact_text() -> None:
    # the id that the conformance flow `blob_ids` states
    text = jsontext.dumps({"b": 1, "a": [True, None, "é"]})
    assert jsontext.flow_id(text) == hashlib.sha256(text).hexdigest() == "9cd14cf2a84c65b51da5158284140aa6809621b7b9c3667deca511cdf1ca7013"


def test_child_keeps_digits_and_spelling() -> None:
    raw = b'{"n": 123456789012345678901234567890, "f": 1.50, "l": [1, {"x" : 2}], "e": "\\u00e9"}'
    assert bytes(jsontext.child(raw, "n") or b"") == b"123456789012345678901234567890"
    assert bytes(jsontext.child(raw, "f") or b"") == b"1.50"
    assert bytes(jsontext.child(raw, "e") or b"") == b'"\\u00e9"'
    inner = jsontext.child(raw, "l")
    assert inner is not None
    assert bytes(jsontext.child(inner, 1) or b"") == b'{"x" : 2}'


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b'{"a":1}', "b"),
        (b'{"a":1}', 0),
        (b"[1]", "a"),
        (b"[1]", 1),
        (b"1", "a"),
        (b'"ab"', 0),
        (b"null", "a"),
        (b"{", "a"),
        (b'{"\xff":1}', "a"),
    ],
)
def test_child_of_something_else_is_none(raw: bytes, part: str | int) -> None:
    assert jsontext.child(raw, part) is None


def test_child_of_bottomless_nesting_is_none() -> None:
    assert jsontext.child(b'{"a":' * 50_000, "a") is None


@pytest.mark.parametrize(
    "text",
    [b"1", b" {} ", b'"\\ud83d\\ude00"', b"1e999", b"9" * 10_000, "é".encode().join([b'"', b'"']), b'"[[[{{{"'],
    ids=range(7),
)
def test_valid_payloads(text: bytes) -> None:
    assert jsontext.is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"01",
        b"1.",
        b'"\xff"',
        b'{"\xed\xa0\x80":1}',
        b'"\\ud800"',
        b'"\\udc00abcdefgh"',
        b"1 2",
        b'"\n"',
        b"\xef\xbb\xbf1",
        b"[" * 10**6,
    ],
    ids=range(13),
)
def test_invalid_payloads(text: bytes) -> None:
    assert not jsontext.is_valid(text)


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b'"]]}}"' + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("depth", [1, 2, 7, PAYLOAD_DEPTH])
def test_payload_at_the_depth_limit(depth: int) -> None:
    assert jsontext.is_valid(nested(depth), depth)
    assert not jsontext.is_valid(nested(depth), depth - 1)


def test_payload_depth_is_not_its_width() -> None:
    assert jsontext.is_valid(b"[" + b",".join([b'{"a":"]\\"}"}'] * 1_000) + b"]")
    assert jsontext.is_valid(nested(PAYLOAD_DEPTH))
    assert not jsontext.is_valid(nested(PAYLOAD_DEPTH + 1))


@given(JSON)
def test_a_value_is_the_same_as_itself(value: Any) -> None:
    assert jsontext.same(value, jsontext.loads(jsontext.dumps(value)))


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, [True]], [1, [1]], False),
        ([1], [1, 2], False),
        ([], {}, False),
        ("1", 1, False),
    ],
)
def test_json_equality(left: Any, right: Any, equal: bool) -> None:
    assert jsontext.same(left, right) is equal
    assert jsontext.same(right, left) is equal
