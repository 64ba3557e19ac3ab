"""A flow as an MCP tool: names that every host accepts, schemas of objects."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_cli.tools.catalogue import FlowTool, tool_of

FLOW = FlowId("f" * 64)


def tool(document: dict[str, Any], *taken: str) -> FlowTool:
    return tool_of(FLOW, document, "file", taken)


def with_schemas(defs: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    return {"schemas": {"type": "object", **({"$defs": defs} if defs else {}), "properties": parts}}


@pytest.mark.parametrize(
    ("document", "taken", "name"),
    [
        ({"name": "add"}, (), "add"),
        ({"name": "Sum up: a, b!"}, (), "Sum_up_a_b"),
        ({"name": "Größe"}, (), "Gr_e"),
        ({"name": "???"}, (), "flow"),
        ({}, (), "file"),
        ({"name": None}, (), "file"),
        ({"name": "add"}, ("add",), "add_2"),
        ({"name": "add"}, ("add", "add_2"), "add_3"),
        ({"name": "a" * 99}, (), "a" * 64),
        ({"name": "a" * 99}, ("a" * 64,), "a" * 62 + "_2"),
    ],
)
def test_names(document: dict[str, Any], taken: tuple[str, ...], name: str) -> None:
    assert tool(document, *taken).name == name


@given(st.lists(st.text(max_size=80), max_size=6))
def test_names_are_unique_and_plain(titles: list[str]) -> None:
    names: list[str] = []
    for title in titles:
        names.append(tool({"name": title}, *names).name)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)


def test_description_and_title() -> None:
    assert (tool({"name": "add", "description": "Adds."}).description, tool({"name": "a b"}).title) == ("Adds.", "a b")
    assert tool({"name": "add"}).description == "Runs the flow add."


def test_without_schemas_the_arguments_are_the_input() -> None:
    free = tool({"steps": [{}, {}]})
    assert (free.input_schema, free.output_schema, free.steps) == ({"type": "object"}, None, 2)
    assert free.input_of({"a": 1}) == {"a": 1}
    assert free.input_of(None) == {}
    assert free.structured({"a": 1}) == {"a": 1}
    assert free.structured([1]) is None


def test_schemas_of_objects_stay_as_they_are() -> None:
    takes, gives = {"type": "object", "properties": {"a": {"type": "integer"}}}, {"type": "object"}
    one = tool(with_schemas(input=takes, output=gives))
    assert (one.input_schema, one.output_schema) == (takes, gives)
    assert one.input_of({"a": 1}) == {"a": 1}
    assert one.structured({"b": 2}) == {"b": 2}


@pytest.mark.parametrize("alias", [("inputSchema", "outputSchema"), ("input_schema", "output_schema")])
def test_the_older_names_count(alias: tuple[str, str]) -> None:
    one = tool({alias[0]: {"type": "object", "title": "in"}, alias[1]: {"type": "string"}})
    assert one.input_schema["title"] == "in"
    assert one.wraps_output


def test_other_values_lie_under_a_member_and_references_still_lead_somewhere() -> None:
    defs = {"n": {"type": "integer"}}
    one = tool(with_schemas(defs, input={"type": "array", "items": {"$ref": "#/$defs/n"}}, output={"$ref": "#/$defs/n"}))
    assert one.input_of({"input": [1, 2]}) == [1, 2]
    assert one.input_of({}) is None
    assert one.structured(3) == {"result": 3}
    takes, gives = jsonschema_rs.Draft202012Validator(one.input_schema), jsonschema_rs.Draft202012Validator(one.output_schema)
    assert [takes.is_valid(value) for value in ({"input": [1]}, {"input": ["x"]}, {}, [1])] == [True, False, False, False]
    assert [gives.is_valid(value) for value in ({"result": 1}, {"result": "x"})] == [True, False]
