"""`stepmesh gateway`: the doors alone, over a NATS server that orchestrators use. Stateless; any number of them may run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli import exits
from stepmesh_cli.connection import find_url, run_to_end
from stepmesh_cli.doors import DEFAULT_PORT, reachable, started
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.logs import NO_LOGS, LogFlags
from stepmesh_cli.reporting import say
from stepmesh_cli.settings import gateway_settings
from stepmesh_cli.standing import StopSignals

if TYPE_CHECKING:
    from stepmesh_gateway.settings import GatewaySettings


def gateway(
    *,
    port: Annotated[int, Parameter(name=["--port", "-p"], env_var="STEPMESH_PORT")] = DEFAULT_PORT,
    grpc_port: Annotated[int | None, Parameter(env_var="STEPMESH_GRPC_PORT")] = None,
    host: Annotated[str | None, Parameter(env_var="STEPMESH_HOST")] = None,
    advertise: Annotated[str, Parameter(env_var="STEPMESH_ADVERTISE")] = "",
    config: Annotated[Path | None, Parameter(name=["--config", "-c"], env_var="STEPMESH_CONFIG")] = None,
    url: str | None = None,
    data: Path | None = None,
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    grace: float = 10.0,
    logs: LogFlags = NO_LOGS,
) -> int:
    """Serve gRPC and HTTP for orchestrators that run elsewhere.

    Parameters
    ----------
    port
        Of gRPC and HTTP; 0 is any free one, printed as {"port": N} on stdout.
    grpc_port
        One more port, for gRPC alone; workers are told that one.
    host
        Address to listen on; default: 127.0.0.1. 0.0.0.0 is every interface: there are no passwords.
    advertise
        host:port that workers are told to answer to; default: where it listens.
    config
        Configuration file, for its limits.
    url
        NATS URL; default: STEPMESH_URL, or the nearest `stepmesh up`.
    data
        Data folder of a running `stepmesh up`.
    namespace
        Namespace.
    grace
        Seconds that workers get to bring what they have begun.
    """
    logs.apply()
    where = find_url(url, data)
    if where.startswith("grpc://"):
        raise CommandError("a gateway stands over a NATS server, not over another gateway", hint="--url nats://host:4222")
    found, _ = read_config(config, None) if config is not None else (None, None)
    return run_to_end(
        _serve(where, gateway_settings(found, namespace, host=host, port=port, grpc_port=grpc_port, advertised=advertise), grace)
    )


async def _serve(url: str, settings: GatewaySettings, grace_s: float) -> int:
    from stepmesh_broker.nats import NatsBroker, NatsSettings

    signals = StopSignals(hurry=lambda: None)
    broker = NatsBroker(NatsSettings.parse(url, Namespace(settings.namespace)))
    try:
        async with signals:
            await broker.connect()
            try:
                gateway = await started(broker, settings)
                try:
                    print(json.dumps({"port": gateway.port}), flush=True)
                    say(f"stepmesh gateway serves gRPC and HTTP on {reachable(settings, gateway.port)}")
                    await _first(signals.first(), gateway.ended)
                    say("stopping: workers are told, their tasks stay with the orchestrators")
                finally:
                    await gateway.stop(0.0 if signals.impatient else grace_s)
            finally:
                await broker.close()
    except asyncio.CancelledError:
        if not signals.impatient:
            raise
        return exits.TERMINATED
    return exits.OK


async def _first(stop: Coroutine[Any, Any, None], ended: asyncio.Future[None]) -> None:
    """Returns when the process is told to stop. Raises what ended the gateway before."""
    told = asyncio.ensure_future(stop)
    try:
        await asyncio.wait((told, ended), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            ended.result()
    finally:
        told.cancel()
