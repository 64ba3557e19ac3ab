"""JSON Schema over JSON text, the schemas of a flow, and its variables."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.schemas import MAX_VIOLATIONS, Validator


def flow_with(**properties: Any) -> CompiledFlow:
    flow, diagnostics = compile_flow(document(properties))
    assert diagnostics.items == []
    assert flow is not None
    return flow


def document(properties: Any, **rest: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "description": "d",
        "schemas": {"type": "object", "properties": properties, **rest},
        "steps": [{"id": "s", "component": "/p/c"}],
    }


def found(properties: Any, **rest: Any) -> list[Diagnostic]:
    return compile_flow(document(properties, **rest))[1].items


# --- validator ------------------------------------------------------------------------------------------


def test_violations_begin_with_the_path() -> None:
    validator = Validator({"type": "object", "required": ["n"], "properties": {"l": {"items": {"type": "integer"}}, "a.b": {"const": 1}}})
    assert validator.violations(b'{"n":1,"l":[1,2]}') == []
    assert validator.violations(b'{"n":1,"l":[1,"x"]}') == ['$.l[1]: "x" is not of type "integer"']
    assert validator.violations(b"{}")[0].startswith("$: ")
    assert validator.violations(b'{"n":1,"a.b":2}')[0].startswith('$["a.b"]: ')


@pytest.mark.parametrize(
    ("schema", "text", "valid"),
    [
        ({"type": "integer"}, b"123456789012345678901234567890", True),
        ({"type": "integer"}, b"1.0", True),
        ({"type": "integer"}, b"1.5", False),
        ({"type": "integer"}, b"true", False),
        ({"maximum": 9007199254740992}, b"9007199254740993", False),
        ({"const": 9007199254740993}, b"9007199254740992", False),
        (True, b"1", True),
        (False, b"1", False),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": ["integer", "null"]}}}, b"null", True),
        ({"properties": {"c": {"$ref": "#"}}, "type": "object"}, b'{"c":{"c":3}}', False),
        ({"prefixItems": [{"type": "string"}], "items": False}, b'["x", 1]', False),
    ],
)
def test_draft_2020_12(schema: Any, text: bytes, valid: bool) -> None:
    assert (Validator(schema).violations(text) == []) is valid


def test_the_list_of_violations_is_cut() -> None:
    validator = Validator({"items": {"type": "integer"}})
    assert len(validator.violations(json.dumps(["x"] * MAX_VIOLATIONS).encode())) == MAX_VIOLATIONS
    assert len(validator.violations(json.dumps(["x"] * (MAX_VIOLATIONS + 1)).encode())) == MAX_VIOLATIONS
    assert len(validator.violations(json.dumps(["x" * 10] * 50_000).encode())) == 1
    (line,) = validator.violations(json.dumps(["y" * 10_000]).encode())
    assert len(line) < 400


@pytest.mark.parametrize("text", [b"[NaN]", b"{", b"1" * 5_000, b"[" * 100_000, b'"\xff"', b"[" * 500 + b"]" * 500])
def test_what_cannot_be_checked_is_a_violation_not_a_crash(text: bytes) -> None:
    (line,) = Validator(
        {"items": {"items": {}}, "not": {"const": 0}, "$ref": "#/$defs/r", "$defs": {"r": {"items": {"$ref": "#/$defs/r"}}}}
    ).violations(text) or ["$: deep but valid"]
    assert line.startswith("$: ")


def test_values_of_secrets_are_masked() -> None:
    (line,) = Validator({"items": {"type": "integer"}}, secret=True).violations(b'["hunter2"]')
    assert "hunter2" not in line
    assert line.startswith("$[0]: ")


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)(a|aa)+$", "(x+x+)+y"])
def test_patterns_cannot_run_away(pattern: str) -> None:
    validator = Validator({"pattern": pattern})
    assert len(validator.violations(dumps("a" * 5_000 + "b"))) == 1
    assert len(validator.violations(dumps("x" * 5_000))) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    )
)
def test_any_value_is_valid_or_has_violations(value: Any) -> None:
    validator = Validator({"type": ["object", "null"], "additionalProperties": {"type": "integer"}})
    expected = value is None or (
        isinstance(value, dict) and all(isinstance(member, int) and not isinstance(member, bool) for member in value.values())
    )
    assert (validator.violations(dumps(value)) == []) is expected


# --- schemas of a flow ----------------------------------------------------------------------------------


def test_input_output_and_step_schemas() -> None:
    flow = flow_with(
        input={"type": "object"}, output={"type": "string"}, steps={"type": "object", "properties": {"s": {"type": "integer"}}}
    )
    assert flow.input_schema is not None
    assert flow.input_schema.violations(b"1") == ['$: 1 is not of type "object"']
    assert flow.output_schema is not None
    assert flow.output_schema.violations(b"1") != []
    assert flow.steps[0].output_schema is not None
    assert flow.steps[0].output_schema.violations(b"1") == []
    assert flow.variables_schema is None


def test_shared_definitions_of_the_whole_and_of_a_part() -> None:
    properties = {"input": {"$ref": "#/$defs/id"}, "output": {"$defs": {"own": {"const": 1}}, "$ref": "#/$defs/own"}}
    flow, _ = compile_flow(document(properties, **{"$defs": {"id": {"type": "integer"}}}))
    assert flow is not None
    assert flow.input_schema is not None
    assert flow.input_schema.violations(b'"x"') == ['$: "x" is not of type "integer"']
    assert flow.output_schema is not None
    assert flow.output_schema.violations(b"2") != []


@pytest.mark.parametrize("alias", ["inputSchema", "input_schema", "outputSchema", "output_schema"])
def test_older_names_at_the_top(alias: str) -> None:
    flow, diagnostics = compile_flow({"name": "n", "description": "d", alias: {"type": "object"}})
    assert diagnostics.items == []
    assert flow is not None
    schema = flow.input_schema if alias.startswith("input") else flow.output_schema
    assert schema is not None
    assert schema.violations(b"1") != []


def test_both_names_at_once_is_an_error() -> None:
    _, diagnostics = compile_flow({**document({"input": {}}), "inputSchema": {}, "input_schema": {}})
    assert [(item.code, item.path) for item in diagnostics.items] == [("SM-2030", "$.inputSchema"), ("SM-2030", "$.input_schema")]


def test_the_flat_form_is_one_clear_error() -> None:
    flow, diagnostics = compile_flow({"name": "n", "description": "d", "schemas": {"input": {"type": "object"}}})
    assert flow is None
    (item,) = diagnostics.items
    assert (item.code, item.path) == ("SM-2031", "$.schemas")
    assert "properties" in item.message + item.hint


@pytest.mark.parametrize(
    ("properties", "code", "path"),
    [
        ({"inptu": {}}, "SM-2011", "$.schemas.properties.inptu"),
        ({"input": 3}, "SM-2030", "$.schemas.properties.input"),
        ({"input": {"type": "objekt"}}, "SM-2030", "$.schemas.properties.input.type"),
        ({"input": {"properties": {"a": {"type": 5}}}}, "SM-2030", "$.schemas.properties.input.properties.a.type"),
        ({"input": {"$ref": "#/$defs/none"}}, "SM-2030", "$.schemas.properties.input"),
        ({"input": {"pattern": "("}}, "SM-2030", "$.schemas.properties.input.pattern"),
        ({"output": {"items": {"$ref": "http://localhost:9/x.json"}}}, "SM-2032", "$.schemas.properties.output.items.$ref"),
        ({"output": {"anyOf": [{"$ref": "file:///etc/passwd"}]}}, "SM-2032", "$.schemas.properties.output.anyOf[0].$ref"),
        ({"output": {"$dynamicRef": "other.json#x"}}, "SM-2032", "$.schemas.properties.output.$dynamicRef"),
        ({"steps": {"properties": {"z": {}}}}, "SM-2023", "$.schemas.properties.steps.properties.z"),
        ({"steps": {"properties": {"s": {"type": 1}}}}, "SM-2030", "$.schemas.properties.steps.properties.s.type"),
        ({"steps": []}, "SM-2010", "$.schemas.properties.steps"),
    ],
)
def test_bad_schemas_are_found_at_their_place(properties: Any, code: str, path: str) -> None:
    assert [(item.code, item.path) for item in found(properties)] == [(code, path)]


def test_unknown_keys_beside_properties() -> None:
    assert [item.code for item in found({}, properteis={})] == ["SM-2011"]
    assert found({}, title="t", description="d", required=[]) == []


def test_no_schema_opens_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/s.json"
        for schema in ({"$ref": url}, {"$schema": url, "type": "object"}, {"$id": url, "$ref": "#/$defs/x", "$defs": {"x": True}}):
            compile_flow(document({"input": schema}))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_data_under_const_and_default_is_not_a_reference() -> None:
    assert found({"input": {"default": {"$ref": "http://x/"}, "const": {"$ref": "file:///"}, "enum": [{"$ref": "y"}]}}) == []


# --- variables ------------------------------------------------------------------------------------------


def variables(required: list[str] | None = None, **properties: Any) -> CompiledFlow:
    return flow_with(variables={"type": "object", "properties": properties, **({"required": required} if required else {})})


@pytest.mark.parametrize(
    ("schema", "default"),
    [
        ({"type": "string"}, b'""'),
        ({"type": "number"}, b"0"),
        ({"type": "integer"}, b"0"),
        ({"type": "boolean"}, b"false"),
        ({"type": "null"}, b"null"),
        ({"type": ["string", "null"]}, b"null"),
        ({"type": ["integer", "string"]}, b"0"),
        ({"type": "object"}, None),
        ({"type": "array"}, None),
        ({}, None),
        (True, None),
        ({"type": "string", "minLength": 1}, None),
        ({"type": "string", "enum": ["a"]}, None),
        ({"type": "string", "default": "eu"}, b'"eu"'),
        ({"type": "integer", "default": 123456789012345678901}, b"123456789012345678901"),
        ({"type": ["string", "null"], "default": None}, b"null"),
        ({"type": "object", "default": {"a": {"b": 3}}}, b'{"a":{"b":3}}'),
    ],
)
def test_defaults_explicit_and_implied(schema: Any, default: bytes | None) -> None:
    variable = variables(v=schema).variables["v"]
    assert (variable.default, variable.required) == (default, False)


def test_a_required_variable_has_no_implied_default() -> None:
    flow = variables(["v", "w"], v={"type": "string"}, w={"type": "string", "default": "x"})
    assert (flow.variables["v"].default, flow.variables["v"].required) == (None, True)
    assert (flow.variables["w"].default, flow.variables["w"].required) == (b'"x"', True)
    assert flow.variables_schema is not None
    assert flow.variables_schema.violations(b'{"v":"1"}') == []
    assert len(flow.variables_schema.violations(b"{}")) == 1


def test_details_of_a_variable() -> None:
    flow = variables(v={"type": "string", "is_secret": True, "env_var": "V", "description": "the key"})
    variable = flow.variables["v"]
    assert (variable.secret, variable.env_var, variable.description) == (True, "V", "the key")
    assert variable.schema["type"] == "string"
    assert flow.variables_schema is not None
    assert "42" not in flow.variables_schema.violations(b'{"v":42}')[0]
    plain = variables(v={"type": "string"}).variables_schema
    assert plain is not None
    assert "42" in plain.violations(b'{"v":42}')[0]


@pytest.mark.parametrize(
    ("schema", "code", "path"),
    [
        ({"properties": {"v": {"type": "integer", "default": "x"}}}, "SM-2030", "$.schemas.properties.variables.properties.v.default"),
        ({"properties": {"v": {"is_secret": "yes"}}}, "SM-2010", "$.schemas.properties.variables.properties.v.is_secret"),
        ({"properties": {"v": {"env_var": 3}}}, "SM-2010", "$.schemas.properties.variables.properties.v.env_var"),
        ({"properties": {}, "required": ["w"]}, "SM-2030", "$.schemas.properties.variables.required"),
    ],
)
def test_bad_variables_are_found_at_their_place(schema: Any, code: str, path: str) -> None:
    assert [(item.code, item.path) for item in found({"variables": schema})] == [(code, path)]


def test_a_variable_whose_schema_is_wrong() -> None:
    paths = {item.path for item in found({"variables": {"properties": {"v": 3, "w": {"type": "x"}}}})}
    assert "$.schemas.properties.variables.properties.v" in paths
    assert "$.schemas.properties.variables.properties.w.type" in paths
    assert [item.code for item in found({"variables": 3})] == ["SM-2030"]


def test_expressions_see_which_variables_are_declared() -> None:
    text = (
        "name: n\ndescription: d\nschemas: {properties: {variables: {properties: {region: {type: string}}}}}\noutput: {$variable: regoin}"
    )
    (item,) = compile_flow(load(text))[1].items
    assert (item.code, item.hint) == ("SM-2027", "did you mean `region`?")
