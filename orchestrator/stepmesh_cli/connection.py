"""From flags to a connected client, and a coroutine run to its end: what every command on a deployment begins with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvloop
from cyclopts import Parameter

from stepmesh.client import Client
from stepmesh.errors import EndpointNotFound

T = TypeVar("T")
PATIENCE_S = 5.0
"""How long a command asks a deployment that does not answer, in seconds."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Target:
    """Which deployment a command talks to."""

    url: Annotated[
        str | None, Parameter(help="nats://…, kafka://… or grpc://… of a gateway; default: STEPMESH_URL, or the nearest `stepmesh up`.")
    ] = None
    data: Annotated[Path | None, Parameter(help="Data folder of a running `stepmesh up`.")] = None
    namespace: Annotated[str, Parameter(help="Namespace.", env_var="STEPMESH_NAMESPACE")] = "default"


HERE = Target()


def find_url(url: str | None, data: Path | None) -> str:
    """Raises `EndpointNotFound`."""
    from stepmesh import endpoint

    if url is None and data is not None:
        from stepmesh_broker.nats import read_endpoint

        try:
            url = read_endpoint(data)
        except (OSError, ValueError, KeyError) as problem:
            raise EndpointNotFound(f"the endpoint of {data} cannot be read: {problem}", hint=f"stepmesh up --data {data}") from problem
        if url is None:
            raise EndpointNotFound(f"no deployment runs in {data}", hint=f"stepmesh up --data {data}")
    return endpoint.find(url)


@asynccontextmanager
async def connected(target: Target) -> AsyncGenerator[Client]:
    """A client of the deployment. Raises `EndpointNotFound`, `BrokerUnavailable`."""
    async with Client.connect(find_url(target.url, target.data), target.namespace, patience_s=PATIENCE_S) as client:
        yield client


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop. Raises `KeyboardInterrupt` when Ctrl-C ended it."""
    return uvloop.run(work)
