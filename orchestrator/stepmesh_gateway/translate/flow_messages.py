"""Flows, their diagnostics and variables, and components of api.py as stepflow.v1 messages. Pure; it looks nothing up."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from stepmesh_broker.pb.stepflow.v1 import components_pb2, flows_pb2
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Pool
from stepmesh_gateway.translate.diagnostics import Diagnostics, Level
from stepmesh_gateway.translate.examples import Example
from stepmesh_gateway.translate.run_messages import number
from stepmesh_gateway.translate.values import plain_value, to_struct, to_value


def diagnostics(found: Diagnostics) -> flows_pb2.Diagnostics:
    """All findings, and how many there are of each level."""
    message = flows_pb2.Diagnostics(
        num_fatal=found.count(Level.FATAL), num_error=found.count(Level.ERROR), num_warning=found.count(Level.WARNING)
    )
    for one in found.diagnostics:
        message.diagnostics.append(
            flows_pb2.Diagnostic(
                kind=one.kind,
                code=one.code,
                level=number(one.level),
                formatted=one.formatted,
                data=plain_value(one.data),
                path=one.path,
                experimental=one.experimental,
            )
        )
    return message


def example(found: Example) -> flows_pb2.ExampleInput:
    """Raises `NoJson` for an input that protobuf cannot hold."""
    return flows_pb2.ExampleInput(name=found.name, description=found.description, input=to_value(bytes(found.input)))


def variable(found: api.Variable) -> flows_pb2.FlowVariable:
    """A secret's default is never among the orchestrator's answers."""
    return flows_pb2.FlowVariable(
        description=found.description,
        default_value=None if found.default is None else to_value(found.default),
        required=found.required,
        schema=_object(found.schema),
        env_var=found.env_var,
    )


def component(entry: api.ComponentEntry, plugins: dict[Pool, str], schemas: bool) -> components_pb2.ComponentInfoEntry:
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


def silent(pool: Pool, plugins: dict[Pool, str]) -> components_pb2.PluginDiscoveryError:
    """A pool of which no worker was heard."""
    return components_pb2.PluginDiscoveryError(plugin=plugins.get(pool, pool), error=f"no worker of pool {pool} was heard")


def _object(schema: bytes | None) -> Struct | None:
    """A schema may be `true` or `false`; a message has no room for those."""
    return to_struct(schema) if schema is not None and schema.lstrip().startswith(b"{") else None
