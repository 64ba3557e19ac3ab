"""Typed values ⇄ JSON: every kind of annotation, violations with their path, nothing changed in silence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
import numpy
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh import BadComponent, InvalidInput, payloads


class Struct(msgspec.Struct):
    a: int
    b: list[str] = []


@dataclass
class Data:
    a: int
    b: str = "x"


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Model(pydantic.BaseModel):
    a: int
    b: list[Data] = []


@pydantic.dataclasses.dataclass
class PydanticData:
    a: int


class Colour(Enum):
    RED = "red"


class Plain:
    pass


READS = [
    (Struct, b'{"a":1,"b":["x"]}', Struct(1, ["x"])),
    (Data, b'{"a":1}', Data(1)),
    (Typed, b'{"a":1,"b":"y"}', {"a": 1, "b": "y"}),
    (Model, b'{"a":1,"b":[{"a":2}]}', Model(a=1, b=[Data(2)])),
    (PydanticData, b'{"a":1}', PydanticData(1)),
    (list[Model], b'[{"a":1}]', [Model(a=1)]),
    (Model | None, b"null", None),
    (dict[str, Struct], b'{"k":{"a":1}}', {"k": Struct(1)}),
    (int, b"5", 5),
    (float, b"5", 5.0),
    (str | None, b"null", None),
    (bool, b"true", True),
    (Any, b'{"x":[1,2.5,null]}', {"x": [1, 2.5, None]}),
    (dict, b'{"x":1}', {"x": 1}),
    (Literal["a", "b"], b'"a"', "a"),
    (Colour, b'"red"', Colour.RED),
    (datetime, b'"2026-01-02T03:04:05Z"', datetime.fromisoformat("2026-01-02T03:04:05+00:00")),
    (UUID, b'"00000000-0000-0000-0000-000000000001"', UUID(int=1)),
    (Decimal, b'"1.50"', Decimal("1.50")),
    (tuple[int, str], b'[1,"a"]', (1, "a")),
    (Annotated[int, msgspec.Meta(ge=0)], b"3", 3),
    (Any, b"123456789012345678901234567890", 123456789012345678901234567890),
    (int, b"123456789012345678901234567890", 123456789012345678901234567890),
]


@pytest.mark.parametrize(("kind", "text", "value"), READS, ids=[f"{row[0]}-{row[1][:20]!r}" for row in READS])
def test_reads(kind, text, value):
    assert payloads.reader(kind)(text) == value


@pytest.mark.parametrize(("kind", "text", "value"), READS, ids=[f"{row[0]}-{row[1][:20]!r}" for row in READS])
def test_what_is_read_can_be_written_and_read_again(kind, text, value):
    assert payloads.reader(kind)(payloads.write(value)) == value


VIOLATIONS = [
    (Struct, b'{"a":"x"}', "$.a"),
    (Struct, b'{"a":1,"b":["x",2]}', "$.b[1]"),
    (Struct, b"[]", "$"),
    (Struct, b"{", "$"),
    (Data, b'{"b":"x"}', "$"),
    (Typed, b'{"a":null}', "$.a"),
    (Model, b'{"a":"x"}', "$.a"),
    (Model, b'{"a":1,"b":[{"a":1},{"a":"x"}]}', "$.b[1].a"),
    (list[Model], b'[{"a":1},{}]', "$[1].a"),
    (int, b'"5"', "$"),
    (Annotated[int, msgspec.Meta(ge=0)], b"-1", "$"),
    (Any, b"NaN", "$"),
    (Any, b"\xff", "$"),
    (Any, b'"\\ud800"', "$"),
    (Any, b"[" * 100_000, "$"),
]


@pytest.mark.parametrize(("kind", "text", "path"), VIOLATIONS, ids=[f"{row[0]}-{row[1][:30]!r}" for row in VIOLATIONS])
def test_violations_name_their_path(kind, text, path):
    with pytest.raises(InvalidInput) as caught:
        payloads.reader(kind)(text)
    assert caught.value.path == path
    assert caught.value.data["violations"][0]["path"] == path
    assert path in str(caught.value)


def test_all_violations_of_a_pydantic_model_are_told():
    with pytest.raises(InvalidInput) as caught:
        payloads.reader(Model)(b'{"b":[{"a":"x"}]}')
    assert [one["path"] for one in caught.value.data["violations"]] == ["$.a", "$.b[0].a"]
    assert "and 1 more" in str(caught.value)


@pytest.mark.parametrize("kind", [Plain, list[Plain], int | Plain])
def test_types_without_a_json_form_are_refused_when_declared(kind):
    with pytest.raises(BadComponent) as caught:
        payloads.schema(kind)
    assert caught.value.code == "SM-6101"


WRITES = [
    (None, b"null"),
    ({"b": 1, "a": 2}, b'{"b":1,"a":2}'),
    ({1: "x"}, b'{"1":"x"}'),
    ((1, 2), b"[1,2]"),
    (Struct(1), b'{"a":1,"b":[]}'),
    (Model(a=1, b=[Data(2)]), b'{"a":1,"b":[{"a":2,"b":"x"}]}'),
    ({"m": [Model(a=1)]}, b'{"m":[{"a":1,"b":[]}]}'),
    (PydanticData(1), b'{"a":1}'),
    (numpy.float64(1.5), b"1.5"),
    (numpy.int64(3), b"3"),
    (numpy.array([[1, 2], [3, 4]]), b"[[1,2],[3,4]]"),
    (2**200, str(2**200).encode()),
    ({"n": None, "t": "null"}, b'{"n":null,"t":"null"}'),
]


@pytest.mark.parametrize(("value", "text"), WRITES, ids=range(len(WRITES)))
def test_writes(value, text):
    assert payloads.write(value) == text


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
NOT_JSON = [
    (math.nan, "$", "float"),
    ({"a": [1.0, math.inf]}, "$.a[1]", "float"),
    ({"a": [None, {"b c": -math.inf}]}, '$.a[1]["b c"]', "float"),
    (Data(1, math.nan), "$.b", "float"),  # type: ignore[arg-type]
    (Struct(1, [math.nan]), "$.b[0]", "float"),  # type: ignore[list-item]
    (numpy.array([1.0, numpy.nan]), "$[1]", "float"),
    (numpy.float32("nan"), "$", "float"),
    ({"x": Plain()}, "$.x", "Plain"),
    ([1, {"x": {1, Plain}}], None, None),
    ("\ud800", "$", "str"),
    ({"k": ["\udfff"]}, "$.k[0]", "str"),
    ({(1, 2): 3}, "$", "dict"),
]


@pytest.mark.parametrize(("value", "path", "kind"), NOT_JSON, ids=range(len(NOT_JSON)))  # a set has no stable text
def test_what_is_not_json_is_refused_with_its_place(value, path, kind):
    with pytest.raises(payloads.NotJson) as caught:
        payloads.write(value)
    if path is not None:
        assert (caught.value.path, caught.value.kind) == (path, kind)


def test_a_value_that_refers_to_itself_is_refused():
    with pytest.raises(payloads.NotJson) as caught:
        payloads.write(CYCLE)
    assert "refers to itself" in str(caught.value)


SCHEMAS = [(int, {"type": "integer"}), (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]})]


@pytest.mark.parametrize(("kind", "schema"), SCHEMAS)
def test_schemas(kind, schema):
    assert msgspec.json.decode(payloads.schema(kind)) == schema


@pytest.mark.parametrize("kind", [Any, dict, object, msgspec.Raw])
def test_anything_goes_has_no_schema(kind):
    assert payloads.schema(kind) is None


@pytest.mark.parametrize("kind", [Struct, Data, Typed, Model, PydanticData])
def test_object_types_have_schemas_with_their_fields(kind):
    text = payloads.schema(kind).decode()
    assert '"a"' in text
    assert "integer" in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_plain_json_survives_writing_and_reading(value):
    assert payloads.reader(Any)(payloads.write(value)) == value


@given(json_values, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_nan_anywhere_is_found(value, bad):
    with pytest.raises(payloads.NotJson):
        payloads.write([value, {"deep": [value, bad]}])
