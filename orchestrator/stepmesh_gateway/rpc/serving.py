"""A gRPC server from services: which method of which object answers which RPC is read off the protobuf descriptors.

Invariant: an exception of ours becomes a status with its code, message and hint; one that nobody foresaw becomes INTERNAL with
an id that the log explains, and the connection is kept. Services must not know gRPC servers; they get a message and a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from stepmesh_gateway.rpc.statuses import guarded, guarded_stream


@dataclass(frozen=True, slots=True)
class Service:
    """`methods` has one coroutine function (or async generator function, for a streamed answer) per RPC, by the RPC's own name."""

    descriptor: ServiceDescriptor
    methods: object


def add(server: grpc.aio.Server, services: Sequence[Service]) -> None:
    """Register services. Raises `AttributeError` when an RPC has no method."""
    handlers = [
        grpc.method_handlers_generic_handler(
            service.descriptor.full_name, {method.name: _handler(service.methods, method) for method in service.descriptor.methods}
        )
        for service in services
    ]
    server.add_generic_rpc_handlers(tuple(handlers))


def _handler(target: object, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    work = getattr(target, method.name)
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[method.client_streaming, method.server_streaming]
    safe = guarded_stream(work) if method.server_streaming else guarded(work)
    made: grpc.RpcMethodHandler[Any, Any] = make(
        safe, request_deserializer=request.FromString, response_serializer=answer.SerializeToString
    )
    return made
