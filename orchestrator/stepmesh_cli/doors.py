"""The gateway of a process: opened on a connection; the addresses under which others reach it.

It imports the gateway when one is opened: gRPC and HTTP cost a command that has no use for them nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from stepmesh_broker.ports import Broker

if TYPE_CHECKING:
    from stepmesh_gateway.server import Gateway
    from stepmesh_gateway.settings import GatewaySettings

DEFAULT_PORT = 7840
"""Where Stepflow's server listens as well."""
EVERYWHERE = {"", "0.0.0.0", "::", "[::]"}


@contextmanager
def held(host: str, port: int) -> Generator[tuple[socket.socket, ...]]:
    """Sockets that listen there, one for each address of the host, so that nobody else takes the port before a gateway does; whoever
    connects waits for it. None of them when the port cannot be had."""
    sockets: list[socket.socket] = []
    with ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                one = stack.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
                one.listen()
                sockets.append(one)
        except OSError:
            sockets.clear()
            stack.close()
        yield tuple(sockets)


async def started(broker: Broker, settings: GatewaySettings, sockets: Sequence[socket.socket] = ()) -> Gateway:
    """A gateway that listens, on `sockets` when they are given; the caller stops it. Raises `StepmeshError` SM-7111 for a port that is
    taken."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own notes about a port that is taken say less than ours
    from stepmesh_gateway.server import Gateway

    gateway = Gateway(broker, settings, sockets)
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
