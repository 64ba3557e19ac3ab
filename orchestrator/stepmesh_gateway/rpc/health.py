"""Health as Stepflow asks for it, and as every gRPC tool does (grpc.health.v1).

A gateway is healthy when an orchestrator answers it. grpc.health.v1 tells of the gateway alone, for load balancers: it serves until it
is told to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.pb.stepflow.v1 import health_pb2 as stepflow_pb2
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.timestamps import timestamp

DESCRIPTOR: ServiceDescriptor = stepflow_pb2.DESCRIPTOR.services_by_name["HealthService"]
standard_pb2: Any = health_pb2  # its stubs are older than it
STANDARD: Any = standard_pb2.DESCRIPTOR.services_by_name["Health"]
_SERVING, _NOT_SERVING, _UNKNOWN = (
    standard_pb2.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
)


class UnknownService(StepmeshError):
    """A service that this gateway does not have."""

    default_code = "SM-7006"


class HealthMethods:
    """The RPCs of stepflow.v1 HealthService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def HealthCheck(self, request: stepflow_pb2.HealthCheckRequest, context: Context) -> stepflow_pb2.HealthCheckResponse:
        """`healthy`, or `unhealthy` while no orchestrator answers."""
        found = await self._operations.health()
        build = stepflow_pb2.BuildInfo(git_version=found.version, profile="release", target=found.target)
        return stepflow_pb2.HealthCheckResponse(status=found.status, timestamp=timestamp(found.at_ms), build=build)


class StandardHealthMethods:
    """The RPCs of grpc.health.v1 Health. `services`: their full names; "" is the gateway as a whole."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = frozenset({"", *services})
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on nothing is served; whoever watches hears of it."""
        self._stopping.set()

    def _status(self) -> Any:
        return standard_pb2.HealthCheckResponse(status=_NOT_SERVING if self._stopping.is_set() else _SERVING)

    async def Check(self, request: Any, context: Context) -> Any:
        """Raises `UnknownService`."""
        if request.service not in self._services:
            raise UnknownService(f"there is no service {request.service[:80]!r} here", hint="reflection lists them")
        return self._status()

    async def List(self, request: Any, context: Context) -> Any:
        """Of every service."""
        return standard_pb2.HealthListResponse(statuses={name: self._status() for name in self._services})

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """The status, and again when it changes; an unknown service may come later, says the protocol."""
        if request.service not in self._services:
            yield standard_pb2.HealthCheckResponse(status=_UNKNOWN)
        elif not self._stopping.is_set():
            yield self._status()
        await self._stopping.wait()
        yield self._status()
