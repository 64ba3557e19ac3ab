"""The reference page of a deployment, and a JSON Schema as rows."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.api import ComponentEntry
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.messages import ComponentInfo
from stepmesh_cli.reference import Offer, markdown
from stepmesh_cli.schema_rows import Row, rows_of

ADD = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "description": "first"},
        "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "how": {"$ref": "#/$defs/How"},
        "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
    },
    "required": ["a"],
    "$defs": {
        "How": {"enum": ["fast", "exact"], "title": "How"},
        "Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
}


def entry(
    path: str = "/cpu/add", pool: str = "cpu", description: str = "", input: Any = None, output: Any = None, workers: int = 1
) -> ComponentEntry:
    schemas = [None if one is None else msgspec.json.encode(one) for one in (input, output)]
    return ComponentEntry(path, Pool(pool), ComponentInfo(path, description, *schemas), workers)


def test_the_members_of_an_object_are_rows() -> None:
    assert rows_of(ADD) == [
        Row("a", "integer", True, "", "first"),
        Row("b", "integer or null", False, "null", ""),
        Row("how", '"fast" or "exact"', False, "", "How"),
        Row("points", "list of object", False, "", ""),
        Row("points[].x", "number", True, "", ""),
    ]


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        (None, "any"),
        (True, "any"),
        ({}, "any"),
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"const": 3}, "3"),
        ({"enum": list(range(10))}, "0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or … (10 values)"),
        ({"type": "array"}, "list"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "list of list of string"),
        (
            {"oneOf": [{"type": "string"}, {"type": "string"}, {"$ref": "#/$defs/N"}], "$defs": {"N": {"type": "number"}}},
            "string or number",
        ),
        ({"$ref": "#/definitions/A", "definitions": {"A": {"$ref": "#/definitions/A"}}}, "any"),
        ({"$ref": "https://elsewhere/schema"}, "any"),
    ],
)
def test_a_value_that_is_no_object_is_one_row(schema: Any, shown: str) -> None:
    [row] = rows_of(schema)
    assert (row.name, row.type) == ("", shown)


def test_a_schema_that_holds_itself_ends() -> None:
    tree = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"next": {"$ref": "#/$defs/T"}}}}}
    assert [row.name for row in rows_of(tree)] == ["next", "next.next", "next.next.next", "next.next.next.next"]


KEYS = st.sampled_from(["type", "properties", "items", "required", "enum", "anyOf", "$ref", "$defs", "default", "description", "x"])
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
SCHEMAS = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@given(SCHEMAS)
def test_whatever_a_worker_calls_a_schema_gives_rows(schema: Any) -> None:
    assert rows_of(schema)
    assert markdown(Offer([entry(input=schema, output=schema)])).startswith("# Components\n")


def test_the_page_has_pools_components_tables_silent_pools_and_flows() -> None:
    flow = {
        "name": "sum",
        "description": "Adds.",
        "schemas": {"type": "object", "properties": {"input": ADD, "output": {"type": "integer"}}},
        "steps": [{"id": "x", "component": "/cpu/add"}, {"id": "y", "component": "/cpu/add"}],
    }
    page = markdown(
        Offer([entry("/gpu/embed", "gpu", workers=2), entry(description="Adds `a` and b.", input=ADD)], ["idle"], {"f" * 64: flow})
    )
    assert re.findall(r"^#+ .*", page, re.M) == [
        "# Components",
        "## Pool `cpu`",
        "### `/cpu/add`",
        "## Pool `gpu`",
        "### `/gpu/embed`",
        "## Pools without a worker",
        "# Flows",
        "## `sum`",
    ]
    assert "2 workers now." in page
    assert "Adds `a` and b." in page
    assert '| `how` | "fast" or "exact" |  |  | How |' in page
    assert "- `idle`" in page
    assert "Calls `/cpu/add`." in page
    assert page.count("| `a` | integer | yes |  | first |") == 2
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_nobody_offers_anything() -> None:
    assert markdown(Offer([])) == "# Components\n\nNo worker offers a component.\n"


@pytest.mark.parametrize("text", ["# heading\n\n# again", "<script>", "a | b", "*bold* _it_ [x](y)", "`", "``` fence", "x\n---\ny"])
def test_text_of_others_stays_text(text: str) -> None:
    plain = markdown(Offer([entry(description="d", input={"type": "object", "properties": {"n": {}}})]))
    page = markdown(
        Offer(
            [
                entry(
                    f"/cpu/{text}", description=text, input={"type": "object", "properties": {text: {"description": text, "default": text}}}
                )
            ]
        )
    )
    assert len(re.findall(r"^#+ ", page, re.M)) == len(re.findall(r"^#+ ", plain, re.M))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [6, 6, 6]
    assert "<script>" not in re.sub("`+ ?[^`]*`+", "", page)
