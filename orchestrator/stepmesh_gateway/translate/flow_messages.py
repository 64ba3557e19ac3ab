"""Flows, their diagnostics and variables, and components of api.py as stepflow.v1 messages. Pure; it looks nothing up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from google.protobuf.struct_pb2 import Struct

from stepmesh_broker.pb.stepflow.v1 import components_pb2, flows_pb2
from stepmesh_broker.protocol import api
from stepmesh_gateway.translate.documents import DiagnosticLevel, Example, Finding
from stepmesh_gateway.translate.run_messages import number
from stepmesh_gateway.translate.values import to_struct, to_value


def diagnostics(found: Sequence[Finding]) -> flows_pb2.Diagnostics:
    """All findings, and how many there are of each level."""
    counts = Counter(one.level for one in found)
    message = flows_pb2.Diagnostics(
        num_fatal=counts[DiagnosticLevel.FATAL], num_error=counts[DiagnosticLevel.ERROR], num_warning=counts[DiagnosticLevel.WARNING]
    )
    message.diagnostics.extend(
        flows_pb2.Diagnostic(
            kind=one.kind,
            code=one.number,
            level=number(one.level),
            formatted=one.text,
            data=None if one.data is None else to_value(one.data),
            path=one.path,
        )
        for one in found
    )
    return message


def example(found: Example) -> flows_pb2.ExampleInput:
    """Raises `NoJson` for an input that protobuf cannot hold."""
    return flows_pb2.ExampleInput(name=found.name, description=found.description, input=to_value(found.input))


def variable(found: api.Variable) -> flows_pb2.FlowVariable:
    """A secret's default is never among the orchestrator's answers."""
    return flows_pb2.FlowVariable(
        description=found.description,
        default_value=None if found.default is None else to_value(found.default),
        required=found.required,
        schema=_object(found.schema),
        env_var=found.env_var,
    )


def component(entry: api.ComponentEntry, plugins: dict[str, str], schemas: bool) -> components_pb2.ComponentInfoEntry:
    """A component as a flow names it. `plugins`: whose each configured pool is; any other pool is its own plugin."""
    offered = entry.component
    return components_pb2.ComponentInfoEntry(
        component_id=offered.path,
        description=offered.description or None,
        input_schema=_object(offered.input_schema) if schemas else None,
        output_schema=_object(offered.output_schema) if schemas else None,
        path=entry.path,
        plugin=plugins.get(entry.pool, entry.pool),
    )


def _object(schema: bytes | None) -> Struct | None:
    """A schema may be `true` or `false`; a message has no room for those."""
    return to_struct(schema) if schema is not None and schema.lstrip().startswith(b"{") else None
