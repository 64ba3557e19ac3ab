"""A gateway in place of a broker, for clients and workers that cannot reach one; the only door to grpcio outside the gateway itself."""

from stepmesh_broker.gateway.address import SCHEME, GatewayAddress
from stepmesh_broker.gateway.connection import GatewayConnection
from stepmesh_broker.gateway.refusals import GatewayRefused
from stepmesh_broker.gateway.stream import WorkStream

__all__ = ["SCHEME", "GatewayAddress", "GatewayConnection", "GatewayRefused", "WorkStream"]
