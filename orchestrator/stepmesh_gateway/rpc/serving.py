"""A gRPC server from services: which method of which object answers which RPC is read off the protobuf descriptors.

Invariant: an exception of ours becomes a status with its code, message and hint; one that nobody foresaw becomes INTERNAL with
an id that the log explains, and the connection is kept. What a client sends is read here, within the limits, so that bytes which
are no message are refused like any other mistake. Services must not know gRPC servers; they get a message and a context.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stepmesh_gateway.limits import OverLimit, Streams, check_size
from stepmesh_gateway.rpc import wire
from stepmesh_gateway.rpc.statuses import Context, guarded, refuse_over_limit
from stepmesh_gateway.settings import Limits

ROOM = 2
"""gRPC itself refuses a message only above that many times our limit, so that the refusal is ours and says what to do."""
_PER_ENTRY = 32
"""What an entry of metadata counts beside its name and value (RFC 9113, 6.5.2)."""


@dataclass(frozen=True, slots=True)
class Service:
    """`methods` has one coroutine function (or async generator function, for a streamed answer) per RPC, by the RPC's own name."""

    descriptor: ServiceDescriptor
    methods: object


def options(limits: Limits) -> list[tuple[str, Any]]:
    """Of a server that takes what `limits` allow, and keeps connections of workers that are silent for long."""
    return [
        ("grpc.max_receive_message_length", limits.message_bytes * ROOM),
        ("grpc.max_send_message_length", limits.message_bytes * ROOM),
        ("grpc.max_metadata_size", limits.header_bytes * ROOM),
        ("grpc.absolute_max_metadata_size", limits.header_bytes * ROOM),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def add(server: grpc.aio.Server, services: Sequence[Service], limits: Limits, streams: Streams) -> None:
    """Register services. Raises `AttributeError` when an RPC has no method."""
    server.add_generic_rpc_handlers((_Door(services, limits, streams),))


class _Door(grpc.GenericRpcHandler):
    def __init__(self, services: Sequence[Service], limits: Limits, streams: Streams) -> None:
        self._limits = limits
        self._handlers = {
            f"/{service.descriptor.full_name}/{method.name}": _handler(getattr(service.methods, method.name), method, limits, streams)
            for service in services
            for method in service.descriptor.methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call; one that refuses it when its metadata is too large."""
        entries: Any = handler_call_details.invocation_metadata
        size = sum(len(key) + len(value) + _PER_ENTRY for key, value in entries or ())
        try:
            check_size("the metadata of the call", size, self._limits.header_bytes, "header_bytes", "send less of it")
        except OverLimit as problem:
            return refuse_over_limit(problem)
        return self._handlers.get(handler_call_details.method)


def _handler(work: Any, method: MethodDescriptor, limits: Limits, streams: Streams) -> grpc.RpcMethodHandler[Any, Any]:
    """Without serializers: the bytes are read and written here."""
    kind, limit = GetMessageClass(method.input_type), limits.message_bytes

    async def read_all(parts: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for part in parts:
            yield wire.read(kind, part, limit)

    async def answer(data: bytes, context: Context) -> bytes:
        return wire.write(await work(wire.read(kind, data, limit), context), limit)

    async def stream(data: Any, context: Context) -> None:
        request = read_all(data) if method.client_streaming else wire.read(kind, data, limit)
        with streams.one_more():
            async with aclosing(work(request, context)) as answers:
                async for message in answers:
                    await context.write(wire.write(message, limit))

    makers: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[method.client_streaming, method.server_streaming]
    made: grpc.RpcMethodHandler[Any, Any] = make(guarded(stream if method.server_streaming else answer))
    return made
