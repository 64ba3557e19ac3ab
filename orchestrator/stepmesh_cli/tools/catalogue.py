"""A flow as a tool: its name, what it takes and gives, in the form that the Model Context Protocol wants. Pure.

Invariants: names are unique and made of letters, digits, `_` and `-`, at most 64, as every host accepts them. Schemas stand by themselves
and describe objects: what is no object lies under `input` or `result`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_orchestrator.core.flow.flow_schemas import ALIASES

MAX_NAME = 64
INPUT, RESULT = "input", "result"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTool:
    """`output_schema` None: anything. `wraps_input`, `wraps_output`: the value lies under `input`, `result`. `steps`: how many at most.
    `variables`: those of every run."""

    name: str
    title: str
    description: str
    flow: FlowId
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    wraps_input: bool
    wraps_output: bool
    steps: int
    variables: dict[str, Any] | None = None

    def input_of(self, arguments: Mapping[str, Any] | None) -> Any:
        """The run's input for the arguments of a call."""
        given = dict(arguments or {})
        return given.get(INPUT) if self.wraps_input else given

    def structured(self, result: Any) -> dict[str, Any] | None:
        """What is told of a result beside its text; None when it is no object."""
        if self.wraps_output:
            return {RESULT: result}
        return result if isinstance(result, dict) else None


def tool_of(
    flow: FlowId, document: Mapping[str, Any], fallback: str, taken: Container[str], variables: dict[str, Any] | None = None
) -> FlowTool:
    """`fallback`: the name for a flow without one. `taken`: names of other tools. `variables`: those of every run."""
    schemas = _object(document.get("schemas"))
    takes, gives = _part(document, schemas, "input"), _part(document, schemas, "output")
    wraps_input, wraps_output = takes is not None and not _of_objects(takes), gives is not None and not _of_objects(gives)
    title = str(document.get("name") or fallback)
    return FlowTool(
        name=_name(title, taken),
        title=title,
        description=str(document.get("description") or f"Runs the flow {title}."),
        flow=flow,
        input_schema={"type": "object"} if takes is None else _under(INPUT, takes) if wraps_input else takes,
        output_schema=_under(RESULT, gives) if gives is not None and wraps_output else gives,
        wraps_input=wraps_input,
        wraps_output=wraps_output,
        steps=len(document.get("steps") or ()),
        variables=variables,
    )


def _name(title: str, taken: Container[str]) -> str:
    stem = _NOT_IN_NAMES.sub("_", title).strip("_")[:MAX_NAME] or "flow"
    name, number = stem, 1
    while name in taken:
        number += 1
        end = f"_{number}"
        name = stem[: MAX_NAME - len(end)] + end
    return name


def _part(document: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A schema of the flow with the `$defs` that it may refer to; None when it lets anything through."""
    places = [_object(schemas.get("properties")).get(name), *(document.get(alias) for alias, meant in ALIASES.items() if meant == name)]
    schema = next((place for place in places if isinstance(place, dict) and place), None)
    defs = {**_object(schemas.get("$defs")), **_object((schema or {}).get("$defs"))}
    return schema if schema is None or not defs else {**schema, "$defs": defs}


def _of_objects(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


def _under(member: str, schema: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    outer = {"type": "object", "properties": {member: inner}, "required": [member]}
    return {**outer, "$defs": schema["$defs"]} if "$defs" in schema else outer


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
