"""stepflow.v1 FlowsService: store, look at, delete.

A Struct has no order of keys, so a flow that comes this way is stored with its keys sorted: the same flow always has the same id.
"""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepflow.v1 import flows_pb2
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate import flow_messages
from stepmesh_gateway.translate.documents import examples, findings
from stepmesh_gateway.translate.fields import BadRequest, flow_id
from stepmesh_gateway.translate.values import from_struct, to_struct

DESCRIPTOR: ServiceDescriptor = flows_pb2.DESCRIPTOR.services_by_name["FlowsService"]


class FlowsMethods:
    """The RPCs of FlowsService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def StoreFlow(self, request: flows_pb2.StoreFlowRequest, context: Context) -> flows_pb2.StoreFlowResponse:
        """An invalid flow is no error: the answer says what is wrong with it, and that it was not stored."""
        if not request.HasField("flow"):
            raise BadRequest("flow is missing", field="flow", hint="send the flow as a Struct")
        answer = await self._operations.store_flow(from_struct(request.flow, "flow"), request.dry_run)
        found = flow_messages.diagnostics(findings(answer.diagnostics))
        return flows_pb2.StoreFlowResponse(flow_id=answer.flow, stored=answer.stored, diagnostics=found)

    async def GetFlow(self, request: flows_pb2.GetFlowRequest, context: Context) -> flows_pb2.GetFlowResponse:
        """The flow with its examples and the inputs of its test cases."""
        found = await self._operations.get_flow(flow_id(request.flow_id))
        inputs = [flow_messages.example(one) for one in examples(found.document)]
        return flows_pb2.GetFlowResponse(flow=to_struct(found.document), flow_id=found.flow, all_examples=inputs)

    async def DeleteFlow(self, request: flows_pb2.DeleteFlowRequest, context: Context) -> flows_pb2.DeleteFlowResponse:
        """Only one that no live run uses."""
        await self._operations.delete_flow(flow_id(request.flow_id))
        return flows_pb2.DeleteFlowResponse()

    async def GetFlowVariables(self, request: flows_pb2.GetFlowVariablesRequest, context: Context) -> flows_pb2.GetFlowVariablesResponse:
        """What the flow declares."""
        found = await self._operations.variables(flow_id(request.flow_id))
        variables = {one.name: flow_messages.variable(one) for one in found.variables}
        return flows_pb2.GetFlowVariablesResponse(flow_id=found.flow, variables=variables)
