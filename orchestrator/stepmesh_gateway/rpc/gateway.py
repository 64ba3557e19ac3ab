"""stepmesh.v1 GatewayService: requests of the SDK, passed on to the orchestrator that answers them.

Invariant: only what a client may ask is passed on: the api, and a client's messages to the owner of a partition; and the turns of a
worker's durable functions. Its claims and heartbeats are not, because the gateway speaks for it. It must not know what the answers say.
"""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.errors import MessageTooLarge, StepmeshError
from stepmesh_broker.pb.stepmesh.v1 import gateway_pb2 as pb
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Claim, Heartbeat
from stepmesh_broker.protocol.subjects import Subject
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context

DESCRIPTOR: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["GatewayService"]
OVERHEAD = 1024
"""Bytes of a gRPC message beside the request or answer that it carries."""
TIMEOUT_MS = 10_000
"""How long a request that names no time waits for its answer, in ms."""


class NotPassedOn(StepmeshError):
    """A request that a gateway does not pass on."""

    default_code = "SM-7301"


class OtherNamespace(StepmeshError):
    """A request for a namespace that this gateway does not serve."""

    default_code = "SM-7302"


class NoPartition(StepmeshError):
    """A request to a partition that the deployment does not have."""

    default_code = "SM-7303"


class GatewayMethods:
    """The RPCs of GatewayService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def Ask(self, request: pb.AskRequest, context: Context) -> pb.AskResponse:
        """Returns what the orchestrator answers, a refusal included. Raises `NotPassedOn`, `OtherNamespace`, `NoPartition`,
        `MalformedMessage`, `MessageTooLarge`, `BrokerUnavailable`."""
        requests, data = self._operations.requests, request.request
        check_namespace(request.namespace, self._operations)
        if len(data) > requests.broker.max_message_bytes:
            raise MessageTooLarge.of(len(data), requests.broker.max_message_bytes)
        subject = await self._subject(request)
        timeout_s = min((request.timeout_ms or TIMEOUT_MS) / 1000, self._operations.settings.limits.request_s)
        return pb.AskResponse(answer=await requests.broker.request(subject, data, timeout_s))

    async def _subject(self, request: pb.AskRequest) -> Subject:
        namespace = self._operations.namespace
        match request.WhichOneof("to"):
            case "any":
                codec.decode_api_request(request.request)
                return subjects.api(namespace)
            case "partition":
                message = codec.decode_control(request.request)
                if isinstance(message, Claim | Heartbeat):
                    raise NotPassedOn(
                        f"a {type(message).__name__} is not passed on to a partition",
                        hint="a partition takes what clients ask, and turns of functions; workers work over WorkerService.Work",
                    )
                await self._check_partition(request.partition)
                return subjects.control(namespace, Partition(request.partition))
            case _:
                raise NotPassedOn("the request names nobody", hint="set `any` or `partition`")

    async def _check_partition(self, partition: int) -> None:
        count = (await self._operations.requests.info()).partitions
        if partition >= count:
            raise NoPartition(f"there is no partition {partition}: the deployment has {count}", hint="ask for its number with GetInfo")


def turn_bytes(operations: Operations) -> int:
    """The largest request that is passed on, and the largest answer: what both sides of the gateway carry."""
    return min(operations.requests.broker.max_message_bytes, operations.settings.limits.message_bytes - OVERHEAD)


def check_namespace(wanted: str, operations: Operations) -> None:
    """Raises `OtherNamespace` unless `wanted` is this gateway's, or empty."""
    if wanted and wanted != operations.namespace:
        raise OtherNamespace(
            f"this gateway serves namespace {operations.namespace!r}, not {wanted!r}",
            hint="set STEPMESH_NAMESPACE, or connect to the gateway of the other namespace",
        )
