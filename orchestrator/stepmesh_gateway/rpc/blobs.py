"""stepflow.v1 BlobService: content-addressed values and bytes."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepflow.v1 import blobs_pb2
from stepmesh_broker.protocol import api
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.fields import BadRequest, blob_id
from stepmesh_gateway.translate.values import from_value, to_value

DESCRIPTOR: ServiceDescriptor = blobs_pb2.DESCRIPTOR.services_by_name["BlobService"]


class BlobMethods:
    """The RPCs of BlobService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def PutBlob(self, request: blobs_pb2.PutBlobRequest, context: Context) -> blobs_pb2.PutBlobResponse:
        """The same content has the same id."""
        filename = request.filename if request.HasField("filename") else None
        content_type = request.content_type if request.HasField("content_type") else None
        data, kind = _content(request)
        blob = await self._operations.put_blob(api.PutBlob(data, kind, filename, content_type))
        return blobs_pb2.PutBlobResponse(blob_id=blob, filename=filename)

    async def GetBlob(self, request: blobs_pb2.GetBlobRequest, context: Context) -> blobs_pb2.GetBlobResponse:
        """JSON as a Value, anything else as bytes."""
        found = await self._operations.get_blob(blob_id(request.blob_id))
        answer = blobs_pb2.GetBlobResponse(
            blob_id=found.blob, blob_type=found.kind, filename=found.filename, content_type=found.content_type
        )
        if found.kind == "binary":
            answer.raw_data = found.data
        else:
            answer.json_data.CopyFrom(to_value(found.data))
        return answer


def _content(request: blobs_pb2.PutBlobRequest) -> tuple[bytes, str]:
    """Bytes are binary whatever they are called, unless they are the text of a flow: the Python worker calls all its blobs `data`."""
    which, kind = request.WhichOneof("content"), request.blob_type or "data"
    if which == "raw_data":
        return request.raw_data, "flow" if kind == "flow" else "binary"
    if which is None:
        raise BadRequest("the blob has no content", field="json_data", hint="set json_data or raw_data")
    if kind == "binary":
        raise BadRequest("a binary blob came as json_data", field="json_data", hint="send its bytes in raw_data")
    return from_value(request.json_data, "json_data"), kind
