"""`stepmesh orchestrator`: one of several that share the partitions of a deployment, until SIGTERM or SIGINT.

It brings no broker, no gateway and no workers but the built-in ones: those are processes of their own.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

from stepmesh_cli.connection import run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.durability import Durability
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.logs import NO_LOGS, LogFlags
from stepmesh_cli.plugins import parts_of
from stepmesh_cli.projection import Projection
from stepmesh_cli.reporting import say, warn
from stepmesh_cli.settings import configured
from stepmesh_cli.standing import serve
from stepmesh_cli.tables import print_json
from stepmesh_orchestrator.runtime.sharing import TTL_S

PARTITIONS = 16
"""Of a cluster, unless somebody says otherwise."""
LEAST_TTL_S = 0.5
_N = TypeVar("_N", int, float)


def orchestrator(
    *,
    broker: Annotated[str | None, Parameter(env_var="STEPMESH_BROKER")] = None,
    journal: Annotated[str | None, Parameter(env_var="STEPMESH_JOURNAL")] = None,
    store: Annotated[str | None, Parameter(env_var="STEPMESH_STORE")] = None,
    durability: Annotated[Durability | None, Parameter(env_var="STEPMESH_DURABILITY")] = None,
    partitions: Annotated[int | None, Parameter(env_var="STEPMESH_PARTITIONS")] = None,
    projection: Projection = "inline",
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    config: Annotated[Path | None, Parameter(name=["--config", "-c"], env_var="STEPMESH_CONFIG")] = None,
    ttl: Annotated[float, Parameter(env_var="STEPMESH_TTL")] = TTL_S,
    orchestrator_id: Annotated[str, Parameter(env_var="STEPMESH_ORCHESTRATOR_ID")] = "",
    grace: float = 5.0,
    json: bool = False,
    logs: LogFlags = NO_LOGS,
) -> int:
    """Serve a share of a deployment's partitions; any number of these share them all.

    Parameters
    ----------
    broker
        nats://… or kafka://… that all of them use.
    journal
        postgres://…, redis://…, nats://…, kafka://… or broker (the broker's server); sqlite:PATH for processes of one machine.
    store
        postgres://… that all of them use; sqlite:PATH for processes of one machine. Default: where the journal is.
    durability
        What the journal must give: fsync, replicated or process; it does not start with less. Default: whatever the journal gives.
    partitions
        Of the deployment, the same for all and for ever; default: 16.
    namespace
        Namespace.
    config
        Configuration file; default: the one in the working folder.
    ttl
        Seconds without a sign of life after which the others take over.
    orchestrator_id
        How this process names itself; default: host and process id.
    grace
        Seconds that built-in workers get to drain.
    json
        Say when it is ready as a JSON line on stdout.
    """
    logs.apply()
    found, _ = read_config(config, None)
    for line in parts_of(found).warnings:
        warn(line)
    said = configured(found)
    settings = DeploymentSettings(
        broker=_shared("broker", broker or said.broker),
        journal=_shared("journal", journal or said.journal),
        store=said.store_for(journal, store),
        durability=durability or said.durability,
        blobs=said.blobs,
        namespace=namespace,
        partitions=_at_least("--partitions", partitions or said.partitions or PARTITIONS, 1),
        config=found,
        grace_s=grace,
        owner=orchestrator_id,
        ttl_s=_at_least("--ttl", ttl, LEAST_TTL_S),
        projection=projection,
    )
    return run_to_end(serve(settings, partial(_tell, as_json=json)))


def _shared(what: str, url: str | None) -> str:
    if url is None:
        raise CommandError(f"no {what} is named", hint=f"--{what} URL, the same for all orchestrators of the deployment")
    if url in ("memory", "embedded", "sqlite"):
        raise CommandError(
            f"the {what} {url!r} is one process's own", hint=f"--{what} URL, the same for all orchestrators of the deployment"
        )
    return url


def _at_least(flag: str, value: _N, least: _N) -> _N:
    if value < least:
        raise CommandError(f"{flag} {value:g} is below {least:g}")
    return value


def _tell(deployment: Deployment, *, as_json: bool) -> None:
    settings = deployment.settings
    if as_json:
        print_json({"ready": True, "pid": os.getpid(), "node": deployment.node.name, "namespace": settings.namespace})
    say(f"stepmesh orchestrator {deployment.node.name} shares {settings.partitions} partitions of namespace {settings.namespace}")
