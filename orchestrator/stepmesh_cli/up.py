"""`stepmesh up`: a whole deployment in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepmesh.endpoint import FILE
from stepmesh_cli.addresses import shown
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.doors import DEFAULT_PORT, held, reachable
from stepmesh_cli.durability import Durability
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.plugins import parts_of, unreachable
from stepmesh_cli.projection import Projection
from stepmesh_cli.reporting import say, warn
from stepmesh_cli.settings import configured, gateway_settings, worker_processes
from stepmesh_cli.standing import serve
from stepmesh_cli.tables import print_json

HERE = FILE.parent.parent
"""The data folder that clients find by themselves."""


def up(
    *,
    data: Path = HERE,
    config: Path | None = None,
    worker: tuple[str, ...] = (),
    workers: int = 1,
    dev: bool = False,
    broker: str | None = None,
    journal: str | None = None,
    store: str | None = None,
    durability: Durability | None = None,
    port: int | None = None,
    http: int | None = None,
    host: Annotated[str | None, Parameter(env_var="STEPMESH_HOST")] = None,
    partitions: int | None = None,
    projection: Projection = "inline",
    namespace: str = "default",
    grace: float = 20.0,
    json: bool = False,
) -> int:
    """Serve flows from this machine: orchestrator, broker, journal and workers in one process.

    Parameters
    ----------
    data
        Folder of journal, store and broker; what is in it goes on where it stopped.
    config
        Configuration file; default: the one in the working folder.
    worker
        MODULE[:ATTR] or FILE.py[:ATTR] whose worker runs in processes of its own; repeatable.
    workers
        Processes of each --worker.
    dev
        For who writes the workers: they start again when a Python file below the working folder changes, and replay workflows at each
        activation.
    broker
        embedded, or nats://host:port or kafka://host:port, several with commas between them; default: embedded.
    journal
        sqlite[:PATH], memory, broker, postgres://…, redis://…, nats://… or kafka://…; default: sqlite.
    store
        Of flows, blobs and lists: sqlite:PATH or postgres://…; default: PostgreSQL if the journal is there, else a file in --data.
    durability
        What the journal must give: fsync, replicated or process; it does not start with less. Default: whatever the journal gives.
    port
        Port of the embedded broker; default: the one of the last time, or a free one.
    http
        Port of the gateway (gRPC and HTTP), 0 for any free one; default: 7840 if it is free, else no gateway.
    host
        Address that the gateway listens on; default: 127.0.0.1.
    partitions
        Of a new data folder; default: 1.
    namespace
        Namespace.
    grace
        Seconds that workers get to drain.
    json
        Say when it is ready as a JSON line on stdout.
    """
    found, _ = read_config(config, None)
    parts, said = parts_of(found), configured(found)
    door = gateway_settings(found, namespace, host=host, port=DEFAULT_PORT if http is None else http)
    with nullcontext(()) if http is not None else held(door.host, DEFAULT_PORT) as sockets:
        served = http is not None or bool(sockets)
        if not served and parts.wants_gateway:
            served, door = True, gateway_settings(found, namespace, host=host, port=0)
        for line in (*parts.warnings, *(() if served else unreachable(parts))):
            warn(line)
        settings = DeploymentSettings(
            broker=broker or said.broker or "embedded",
            journal=journal or said.journal or "sqlite",
            store=said.store_for(journal, store),
            durability=durability or said.durability,
            blobs=said.blobs,
            data_dir=data,
            namespace=namespace,
            partitions=partitions or said.partitions,
            config=found,
            port=port,
            processes=worker_processes(worker, workers),
            watched=Path.cwd() if dev else None,
            grace_s=grace,
            gateway=door if served else None,
            gateway_sockets=sockets,
            projection=projection,
            plugin_workers_needed=False,
        )
        logging.getLogger("stepmesh").setLevel(min(logging.INFO, logging.getLogger().level))
        return run_to_end(serve(settings, partial(_tell, data=data, as_json=json)))


def _tell(deployment: Deployment, *, data: Path, as_json: bool) -> None:
    settings = deployment.settings
    gateway, gives = deployment.gateway, deployment.node.ports.journal.durability
    if as_json:
        port = None if gateway is None else gateway.port
        print_json(
            {
                "ready": True,
                "pid": os.getpid(),
                "data": str(data.absolute()),
                "namespace": settings.namespace,
                "port": port,
                "durability": gives,
            }
        )
    flags = "" if data == HERE else f" --data {data}"
    say(f"stepmesh is up: broker {shown(settings.broker)}, journal {shown(settings.journal)} ({gives}), data {data.absolute()}")
    if gateway is None:
        say(f"  gateway: none, because port {DEFAULT_PORT} is taken; --http PORT serves gRPC and HTTP on another one (0: any free one)")
    else:
        say(f"  gateway: gRPC and HTTP on {reachable(gateway.settings, gateway.port)}")
    if settings.broker == "embedded":
        say(f"  submit:  stepmesh submit FLOW --input-json '{{…}}'{flags}")
        say(f"  work:    stepmesh worker MODULE{flags}")
        say(f"  or set   STEPMESH_URL to the url in {data / 'nats' / 'endpoint.json'}")
    else:
        say("  set STEPMESH_URL to the broker's address for `stepmesh submit` and `stepmesh worker`")
