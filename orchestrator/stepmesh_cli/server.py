"""`stepmesh server`: orchestrator and gateway in one process, with the flags and the environment of `stepflow-server`.

Invariant: stdout has one line, `{"port": N}`, printed once the port answers; what starts us may wait for it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stepmesh_cli.addresses import shown
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.doors import DEFAULT_PORT, reachable
from stepmesh_cli.durability import Durability
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.logs import NO_LOGS, LogFlags
from stepmesh_cli.otlp import NO_OTLP, OtlpFlags
from stepmesh_cli.plugins import parts_of
from stepmesh_cli.projection import Projection
from stepmesh_cli.reporting import say, show_findings, warn
from stepmesh_cli.settings import configured, gateway_settings, worker_processes
from stepmesh_cli.standing import serve

if TYPE_CHECKING:
    from stepmesh_orchestrator.config import Config


def server(
    *,
    port: Annotated[int, Parameter(name=["--port", "-p"], env_var=["STEPFLOW_PORT", "STEPMESH_PORT"])] = DEFAULT_PORT,
    grpc_port: Annotated[int | None, Parameter(env_var="STEPMESH_GRPC_PORT")] = None,
    host: Annotated[str | None, Parameter(env_var="STEPMESH_HOST")] = None,
    advertise: Annotated[str, Parameter(env_var=["STEPFLOW_ORCHESTRATOR_URL", "STEPMESH_ADVERTISE"])] = "",
    config: Annotated[Path | None, Parameter(name=["--config", "-c"], env_var=["STEPFLOW_CONFIG", "STEPMESH_CONFIG"])] = None,
    config_stdin: bool = False,
    orchestrator_id: Annotated[str, Parameter(env_var="STEPFLOW_ORCHESTRATOR_ID")] = "",
    logs: LogFlags = NO_LOGS,
    otlp: OtlpFlags = NO_OTLP,
    worker: tuple[str, ...] = (),
    workers: int = 1,
    broker: str | None = None,
    journal: str | None = None,
    store: str | None = None,
    durability: Durability | None = None,
    data: Path | None = None,
    partitions: int | None = None,
    projection: Projection = "inline",
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    grace: float = 5.0,
) -> int:
    """Serve gRPC and HTTP, as stepflow-server does: its flags, its environment, its configuration file.

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
        Configuration file; without one, only the built-in components.
    config_stdin
        Read the configuration from stdin, as JSON or YAML.
    orchestrator_id
        How this process names itself in the journal.
    worker
        MODULE[:ATTR] or FILE.py[:ATTR] whose worker runs in processes of its own; repeatable.
    workers
        Processes of each --worker.
    broker
        memory, embedded, or nats://host:port or kafka://host:port, several with commas between them; default: memory.
    journal
        memory, sqlite[:PATH], broker, postgres://…, redis://…, nats://… or kafka://…; default: as storageConfig says, or sqlite with
        --data, or memory.
    store
        Of flows, blobs and lists: sqlite:PATH or postgres://…; default: PostgreSQL if the journal is there, else a file in --data.
    durability
        What the journal must give: fsync, replicated or process; it does not start with less. Default: whatever the journal gives.
    data
        Folder that keeps journal and broker; what is in it goes on where it stopped.
    partitions
        Of a new data folder; default: 1.
    namespace
        Namespace.
    grace
        Seconds that workers get to drain.
    """
    logs.apply()
    os.environ.update(otlp.environment())
    found = _read(config, config_stdin)
    for line in parts_of(found).warnings:
        warn(line)
    said = configured(found)
    return run_to_end(
        serve(
            DeploymentSettings(
                broker=broker or said.broker or "memory",
                journal=journal or said.journal or ("memory" if data is None else "sqlite"),
                store=said.store_for(journal, store),
                durability=durability or said.durability,
                blobs=said.blobs,
                data_dir=data,
                namespace=namespace,
                partitions=partitions or said.partitions,
                config=found,
                processes=worker_processes(worker, workers),
                grace_s=grace,
                gateway=gateway_settings(found, namespace, host=host, port=port, grpc_port=grpc_port, advertised=advertise),
                owner=orchestrator_id,
                projection=projection,
                plugin_workers_needed=False,
            ),
            _tell,
        )
    )


def _read(file: Path | None, from_stdin: bool) -> Config | None:
    """Only what is named is read, as by stepflow-server: a file that lies in the working folder is not."""
    if from_stdin and file is not None:
        raise CommandError("--config-stdin and a configuration file exclude each other", hint="give one; STEPFLOW_CONFIG names a file too")
    if file is not None:
        return read_config(file, None)[0]
    if not from_stdin:
        return None
    from stepmesh_orchestrator.config import parse_config

    found, warnings = parse_config(sys.stdin.buffer.read(), os.environ, name="<stdin>")
    show_findings(warnings, "<stdin>")
    return found


def _tell(deployment: Deployment) -> None:
    gateway = deployment.gateway
    assert gateway is not None
    print(json.dumps({"port": gateway.port}), flush=True)
    settings = deployment.settings
    gives = deployment.node.ports.journal.durability
    where = reachable(gateway.settings, gateway.port)
    say(f"stepmesh serves gRPC and HTTP on {where}: broker {shown(settings.broker)}, journal {shown(settings.journal)} ({gives})")
