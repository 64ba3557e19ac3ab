"""The builder makes the documents that YAML authors write."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stepmesh import BadFlow, Flow, Value, coalesce, if_, retry, use_default
from stepmesh.values import expression
from stepmesh_broker.protocol.ids import content_id


class Order(msgspec.Struct):
    number: int
    note: str = ""


def test_a_whole_flow_is_the_document_that_an_author_writes():
    flow = Flow("orders", description="Prices orders.", version="2", metadata={"team": "x"})
    parse = flow.step(
        "parse", "/cpu/parse", {"text": Value.input("text"), "limit": 5}, on_error=retry(2, backoff={"type": "constant"}), timeout="30s"
    )
    price = flow.step(
        "price",
        "/cpu/price",
        {"items": parse.path.order.items, "first": parse["order"]["items"][0], "rate": Value.variable("rate", default=1.5)},
        on_error=use_default({"total": 0, "why": Value.error("message")}),
        skip=if_(parse["empty"], True, False),
        must_execute=True,
        pool="gpu",
        priority=3,
        concurrency_key=Value.input("customer"),
        metadata={"owner": "y"},
    )
    flow.output(
        {"total": coalesce(price["total"], parse.if_skipped({"t": 0})["t"], 0), "raw": Value.literal({"$step": "text"}), "all": [price]}
    )
    written = yaml.safe_load("""
name: orders
description: Prices orders.
version: "2"
steps:
  - id: parse
    component: /cpu/parse
    input: {text: {$input: text}, limit: 5}
    onError: {action: retry, maxRetries: 2, backoff: {type: constant}}
    timeout: 30s
  - id: price
    component: /cpu/price
    input:
      items: {$step: parse, path: $.order.items}
      first: {$step: parse, path: "$.order.items[0]"}
      rate: {$variable: rate, default: 1.5}
    onError: {action: useDefault, defaultValue: {total: 0, why: {$error: message}}}
    mustExecute: true
    skip: {$if: {$step: parse, path: empty}, then: true, else: false}
    timeout: null
    pool: gpu
    priority: 3
    concurrencyKey: {$input: customer}
    metadata: {owner: y}
output:
  total: {$coalesce: [{$step: price, path: total}, {$step: parse, path: t, onSkip: {action: useDefault, defaultValue: {t: 0}}}, 0]}
  raw: {$literal: {$step: text}}
  all: [{$step: price}]
metadata: {team: x}
""")
    del written["steps"][1]["timeout"]
    assert flow.to_dict() == written


EXPRESSIONS = [
    (Value.input(), {"$input": "$"}),
    (Value.input("a.b"), {"$input": "a.b"}),
    (Value.input("$.a[0]"), {"$input": "$.a[0]"}),
    (Value.input("a")["b"], {"$input": "$.a.b"}),
    (Value.input()["a"], {"$input": "a"}),
    (Value.input()[0], {"$input": "$[0]"}),
    (Value.input()["$x"], {"$input": '$["$x"]'}),
    (Value.input()[""], {"$input": '$[""]'}),
    (Value.input()["a b"]["c"], {"$input": '$["a b"].c'}),
    (Value.input()['q"\\']["x"], {"$input": '$["q\\"\\\\"].x'}),
    (Value.input().path.user.name, {"$input": "$.user.name"}),
    (Value.input().path.rows[3].id, {"$input": "$.rows[3].id"}),
    (Value.input("$.a")["b"], {"$input": "$.a.b"}),
    (Value.step("s"), {"$step": "s"}),
    (Value.step("s", "x"), {"$step": "s", "path": "x"}),
    (Value.step("s")["x"][1], {"$step": "s", "path": "$.x[1]"}),
    (Value.step("s").if_skipped(None), {"$step": "s", "onSkip": {"action": "useDefault", "defaultValue": None}}),
    (Value.variable("v"), {"$variable": "v"}),
    (Value.variable("v")["x"], {"$variable": "$.v.x"}),
    (Value.variable("v", default=Value.input("d")), {"$variable": "v", "default": {"$input": "d"}}),
    (Value.error(), {"$error": "$"}),
    (Value.literal([1, {"$if": 2}]), {"$literal": [1, {"$if": 2}]}),
    (if_(Value.input("a"), 1), {"$if": {"$input": "a"}, "then": 1}),
    (coalesce(Value.input("a"), 2), {"$coalesce": [{"$input": "a"}, 2]}),
    ({"x": (1, Value.input("a"))}, {"x": [1, {"$input": "a"}]}),
    (Order(5), {"number": 5, "note": ""}),
    (2**100, 2**100),
    (None, None),
]


@pytest.mark.parametrize(("value", "document"), EXPRESSIONS, ids=[str(row[1])[:50] for row in EXPRESSIONS])
def test_expressions(value, document):
    assert expression(value) == document


def refuse(action):
    with pytest.raises(BadFlow) as caught:
        action()
    assert caught.value.code == "SM-2101"
    return str(caught.value)


def test_what_cannot_be_meant_is_refused_at_once():
    flow = Flow()
    flow.step("a", "/x")
    assert "twice" in refuse(lambda: flow.step("a", "/x"))
    assert "empty" in refuse(lambda: flow.step("", "/x"))
    assert "did you mean '/x'" in refuse(lambda: flow.step("b", "x"))
    assert "iterated" in refuse(lambda: list(Value.input()))
    assert "-1" in refuse(lambda: Value.input()[-1])
    assert "True" in refuse(lambda: Value.input()[True])
    assert "literal holds a reference" in refuse(lambda: Value.literal(Value.input()))
    assert "key 1" in refuse(lambda: expression({1: 2}))
    assert "object" in refuse(lambda: expression(object()))
    assert "bare" in refuse(lambda: expression(Value()))


def test_private_attributes_are_not_fields():
    with pytest.raises(AttributeError):
        Value.input().path._private  # noqa: B018
    assert expression(Value.input().path["_private"]) == {"$input": "_private"}


def test_schemas_from_types_and_mappings():
    flow = Flow(
        input_schema=Order,
        output_schema={"type": "integer"},
        variables={"rate": {"type": "number"}, "currency": {"type": "string", "default": "EUR"}},
    )
    schemas = flow.to_dict()["schemas"]
    assert schemas["type"] == "object"
    assert schemas["$defs"]["Order"]["required"] == ["number"]
    assert schemas["properties"]["input"] == {"$ref": "#/$defs/Order"}
    assert schemas["properties"]["output"] == {"type": "integer"}
    assert schemas["properties"]["variables"]["required"] == ["rate"]


def test_an_empty_flow_is_the_smallest_document():
    assert Flow().to_dict() == {"steps": []}
    assert Flow().to_json() == '{"steps":[]}'


def test_a_null_output_is_written():
    flow = Flow()
    flow.output(None)
    assert flow.to_dict() == {"steps": [], "output": None}


def test_the_id_is_the_hash_of_the_compact_document():
    flow = Flow("x")
    assert flow.id == content_id(b'{"name":"x","steps":[]}')


field_names = st.text(max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parts = st.lists(field_names | st.integers(0, 1000), max_size=4)


def reference(kind: str, path: list[str | int]) -> Any:
    made = Value.input() if kind == "input" else Value.step("s")
    for part in path:
        made = made[part]
    return made


@given(plain)
def test_data_without_values_stays_itself(value):
    assert expression(value) == value


@given(plain)
def test_a_literal_is_verbatim(value):
    assert expression(Value.literal(value)) == {"$literal": value}


@given(st.sampled_from(["input", "step"]), parts)
def test_every_path_reads_back(kind, path):
    """An independent reader of the path grammar (JSON strings in brackets) gives the parts again."""
    document = expression(reference(kind, path))
    text = document.get("$input") if kind == "input" else document.get("path")
    assert read_path(text) == path


@given(plain, parts)
def test_a_document_survives_json(value, path):
    flow = Flow("f")
    step = flow.step("s", "/x", {"data": Value.literal(value), "ref": reference("input", path)})
    flow.output([step, value])
    assert msgspec.json.decode(flow.to_json()) == flow.to_dict()


def read_path(text: str | None) -> list[str | int]:
    import json

    if not text:
        return []
    if not text.startswith("$"):
        return [text]
    found: list[str | int] = []
    rest = text[1:]
    while rest:
        if rest[0] == ".":
            end = min([rest.find(c, 1) for c in ".[" if rest.find(c, 1) > 0] or [len(rest)])
            found.append(rest[1:end])
            rest = rest[end:]
        elif rest[1] == '"':
            value, end = json.JSONDecoder().raw_decode(rest, 1)
            found.append(value)
            rest = rest[end + 1 :]
        else:
            end = rest.index("]")
            found.append(int(rest[1:end]))
            rest = rest[end + 1 :]
    return found
