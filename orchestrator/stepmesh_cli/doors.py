"""The gateway of a process: opened on a connection; the addresses under which others reach it.

It imports the gateway when one is opened: gRPC and HTTP cost a command that has no use for them nothing.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from stepmesh_broker.ports import Broker

if TYPE_CHECKING:
    from stepmesh_gateway.server import Gateway
    from stepmesh_gateway.settings import GatewaySettings

DEFAULT_PORT = 7840
"""Where Stepflow's server listens as well."""
EVERYWHERE = {"", "0.0.0.0", "::", "[::]"}


def is_free(host: str, port: int) -> bool:
    """Whether a gateway could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


async def started(broker: Broker, settings: GatewaySettings) -> Gateway:
    """A gateway that listens; the caller stops it. Raises `StepmeshError` SM-7111 for a port that is taken."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own notes about a port that is taken say less than ours
    from stepmesh_gateway.server import Gateway

    gateway = Gateway(broker, settings)
    await gateway.start()
    return gateway


def reachable(settings: GatewaySettings, port: int) -> str:
    """`host:port` under which processes of this machine reach the gateway."""
    return f"{'127.0.0.1' if settings.host in EVERYWHERE else settings.host}:{port}"


def addresses(gateway: Gateway) -> dict[str, str]:
    """What a worker process beside the gateway finds in its environment, for Stepflow's workers and for ours."""
    here = reachable(gateway.settings, gateway.port)
    return {
        "STEPFLOW_TASKS_URL": here,
        "STEPFLOW_BLOB_URL": here,
        "STEPFLOW_ORCHESTRATOR_URL": gateway.settings.advertised or here,
        "STEPMESH_URL": f"grpc://{here}",
    }
