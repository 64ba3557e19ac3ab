"""stepflow.v1 ComponentsService: what can be called, from what workers said last. It waits for no worker."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepflow.v1 import components_pb2 as pb
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.flow_messages import component
from stepmesh_gateway.translate.offers import plugins, silent

DESCRIPTOR: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["ComponentsService"]


class ComponentsMethods:
    """The RPCs of ComponentsService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def ListRegisteredComponents(
        self, request: pb.ListRegisteredComponentsRequest, context: Context
    ) -> pb.ListRegisteredComponentsResponse:
        """`complete` unless a configured plugin has no worker; those are named."""
        found = await self._operations.components()
        plugin_of = plugins(await self._operations.queues())
        return pb.ListRegisteredComponentsResponse(
            components=[component(entry, plugin_of, not request.exclude_schemas) for entry in found.components],
            complete=not found.silent,
            failed_plugins=[pb.PluginDiscoveryError(plugin=plugin, error=error) for plugin, error in silent(found, plugin_of)],
        )
