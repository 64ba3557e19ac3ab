"""stepmesh.v1 EventService: events by address, answers by token. What can be sent is what HTTP takes."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepmesh.v1 import events_pb2 as pb
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.fields import run_id

DESCRIPTOR: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["EventService"]
_NULL = b"null"


class EventMethods:
    """The RPCs of EventService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def SendEvent(self, request: pb.SendEventRequest, context: Context) -> pb.SendEventResponse:
        """Kept for those who will wait, too."""
        key = run_id(request.run_id, "run_id") if request.WhichOneof("to") == "run_id" else request.key
        tenant = checked_name("namespace", request.namespace) if request.namespace else None
        kept = await self._operations.send_event(request.name, key, request.id or None, request.data or _NULL, tenant)
        buffered = not kept.matched and not kept.existing
        return pb.SendEventResponse(id=kept.id, matched=kept.matched, buffered=buffered, existing=kept.existing)

    async def ResolvePromise(self, request: pb.SettlePromiseRequest, context: Context) -> pb.SettlePromiseResponse:
        """An approval takes a decision."""
        await self._operations.settle(request.token, request.value or _NULL, rejected=False)
        return pb.SettlePromiseResponse()

    async def RejectPromise(self, request: pb.SettlePromiseRequest, context: Context) -> pb.SettlePromiseResponse:
        """The value is the reason."""
        await self._operations.settle(request.token, request.value or _NULL, rejected=True)
        return pb.SettlePromiseResponse()
