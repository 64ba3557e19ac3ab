"""What listings say of the core's own components is what their decoders take."""

from __future__ import annotations

import json

import jsonschema_rs
import msgspec
import pytest

from stepmesh_orchestrator.core.decide import builtins, subruns
from stepmesh_orchestrator.core.decide.offered import core_components

OFFERED = {one.path: one for one in core_components()}
DECODERS: dict[str, type[msgspec.Struct]] = {
    "/sleep": builtins._Sleep,
    "/eval": subruns._Eval,
    "/map": subruns._Map,
    "/iterate": subruns._Iterate,
}


def test_every_component_of_the_core_is_listed_with_a_description() -> None:
    assert set(OFFERED) == set(builtins.CORE)
    assert all(one.description for one in OFFERED.values())


@pytest.mark.parametrize("path", DECODERS)
def test_the_schema_has_the_fields_that_are_decoded(path: str) -> None:
    schema = json.loads(OFFERED[path].input_schema or b"{}")
    assert set(schema["properties"]) == set(DECODERS[path].__struct_fields__)
    required = {field.name for field in msgspec.structs.fields(DECODERS[path]) if field.required}
    assert set(schema["required"]) == required


def test_schemas_are_schemas() -> None:
    for one in OFFERED.values():
        for schema in (one.input_schema, one.output_schema):
            assert schema is None or jsonschema_rs.validator_for(json.loads(schema)).is_valid({"results": []}) in (True, False)
