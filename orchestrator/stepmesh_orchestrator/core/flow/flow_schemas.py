"""The `schemas` of a flow: input, output, variables and step outputs, in the form with `properties` or by their older names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compiled import Validator, Variable
from stepmesh_orchestrator.core.flow.fields import Fields
from stepmesh_orchestrator.core.flow.schemas import compile_schema, declared_variables

ALIASES = {"inputSchema": "input", "outputSchema": "output", "input_schema": "input", "output_schema": "output"}
_PARTS = ("input", "output", "variables", "steps")
_KEYS = ("type", "properties", "$defs", "$schema", "$id", "title", "description", "required", "additionalProperties")


@dataclass(slots=True)
class FlowSchemas:
    """What a flow declares. `declares_variables`: it has a variables schema at all, so that undeclared ones are worth a warning."""

    input: Validator | None = None
    output: Validator | None = None
    variables: dict[str, Variable] = field(default_factory=dict)
    variables_schema: Validator | None = None
    declares_variables: bool = False
    steps: dict[str, Validator] = field(default_factory=dict)


def read_schemas(flow: Fields, steps: Mapping[str, int]) -> FlowSchemas:
    """Compile all of them. A part is read from `schemas.properties`, else from its alias at the top; both at once is an error."""
    whole = flow.inner("schemas")
    parts = whole.inner("properties")
    if whole.value and "properties" not in whole.value and any(part in whole.value for part in _PARTS):
        hint = "write schemas: {type: object, properties: {input: …, output: …, variables: …}}"
        flow.report(Code.SCHEMA_FLAT, "schemas", "`schemas` lacks `properties`: its parts stand one level too high", hint)
    else:
        whole.only(_KEYS, "`schemas`")
    parts.only(_PARTS, "`schemas.properties`")
    defs = whole.get("$defs")
    found = FlowSchemas()
    found.input = _part(flow, parts, "input", defs)
    found.output = _part(flow, parts, "output", defs)
    _read_variables(parts, found, defs)
    _read_steps(parts.inner("steps"), steps, found, defs)
    return found


def _part(flow: Fields, parts: Fields, name: str, defs: Any) -> Validator | None:
    places = [(parts, name)] + [(flow, alias) for alias, meant in ALIASES.items() if meant == name]
    given = [(fields, key) for fields, key in places if fields.get(key) is not None]
    for fields, key in given[1:]:
        fields.report(Code.SCHEMA, key, f"the {name} schema is given twice", "keep the one under schemas.properties")
    if not given:
        return None
    fields, key = given[0]
    return compile_schema(fields.get(key), fields.at(key), flow.findings, defs=defs)


def _read_variables(parts: Fields, found: FlowSchemas, defs: Any) -> None:
    schema = parts.get("variables")
    if schema is None:
        return
    place = parts.at("variables")
    found.declares_variables = True
    found.variables = declared_variables(schema, place, parts.findings, defs)
    secret = any(variable.secret for variable in found.variables.values())
    found.variables_schema = compile_schema(_lenient(schema, found.variables), place, parts.findings, secret=secret, defs=defs)


def _lenient(schema: Any, variables: Mapping[str, Variable]) -> Any:
    """The schema without the demand for variables that have a default: what a run gives is checked, not what it leaves out."""
    required = schema.get("required") if isinstance(schema, dict) else None
    if not isinstance(required, list):
        return schema
    defaulted = {name for name, variable in variables.items() if variable.default is not None}
    return {**schema, "required": [name for name in required if not isinstance(name, str) or name not in defaulted]}


def _read_steps(fields: Fields, steps: Mapping[str, int], found: FlowSchemas, defs: Any) -> None:
    """`steps: {properties: {<id>: Schema}}`."""
    for step_id, schema in fields.inner("properties").value.items():
        place = (*fields.at("properties"), step_id)
        if step_id not in steps:
            fields.findings.add(Code.UNKNOWN_STEP, place, f"there is no step `{step_id[:60]}`", fields.findings.suggest(step_id, steps))
        validator = compile_schema(schema, place, fields.findings, defs=defs)
        if validator is not None:
            found.steps[step_id] = validator
