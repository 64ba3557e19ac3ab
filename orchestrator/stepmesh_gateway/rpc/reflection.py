"""grpc.reflection: tools ask which services there are, and get their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from stepmesh_gateway.rpc.serving import Service

DESCRIPTOR: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def service(names: Sequence[str]) -> Service:
    """`names`: full names of the services to tell of."""
    return Service(DESCRIPTOR, aio.ReflectionServicer([*names, DESCRIPTOR.full_name]))
