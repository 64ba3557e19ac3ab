"""`stepmesh mcp`: flows as tools for whoever speaks the Model Context Protocol: an assistant, an editor, another deployment.

Flows come from files, which this process runs itself or gives to a deployment, or from a deployment's store by their ids.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stepmesh import documents
from stepmesh.endpoint import VARIABLE
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.errors import BadInput, CommandError
from stepmesh_cli.flow_files import read_config, read_flow
from stepmesh_cli.inputs import read_object
from stepmesh_cli.plugins import parts_of, unreachable
from stepmesh_cli.reporting import warn
from stepmesh_cli.settings import configured, gateway_settings, worker_processes
from stepmesh_cli.suites import flow_files
from stepmesh_cli.tools.standing import Address, GivenFlow, Offer, Opened, stand, variables_of
from stepmesh_components.mcp_server import require_mcp
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.document import load


def mcp(
    *flows: str,
    config: Path | None = None,
    worker: tuple[str, ...] = (),
    workers: int = 1,
    variables: str | None = None,
    http: int | None = None,
    host: str = "127.0.0.1",
    target: Target = HERE,
) -> int:
    """Serve flows as tools of the Model Context Protocol, on stdin and stdout or over HTTP.

    With files and no deployment named, the flows run in this process, like `stepmesh run`. With --url, --data or STEPMESH_URL they run on
    that deployment.

    Parameters
    ----------
    flows
        Flow files, folders that are searched, or ids of stored flows.
    config
        Run the flows in this process, with this configuration; default: the one beside the first flow.
    worker
        MODULE[:ATTR] or FILE.py[:ATTR] whose worker runs in processes of its own; repeatable.
    workers
        Processes of each --worker.
    variables
        Run variables: a file, or an object as JSON text.
    http
        Serve streamable HTTP on this port, at /mcp, instead of stdin and stdout; 0 is any free one.
    host
        Address to listen on with --http; there are no passwords.
    """
    require_mcp("`stepmesh mcp`")
    if not flows:
        raise CommandError("no flow was given", hint="stepmesh mcp FLOW|DIR|ID…")
    ids = [one for one in flows if documents.known_id(one) is not None]
    paths = [Path(one) for one in flows if one not in ids]
    named = target.url is not None or target.data is not None
    here = config is not None or bool(worker)
    if here and (named or ids):
        raise CommandError("--config and --worker are for flows that run in this process", hint="give files, and neither ids nor --url")
    given = read_object(variables, "--variables") or {}
    offer = Offer(_found(paths, given), ids, given)
    where = None if http is None else Address(host, http)
    if here or not (named or ids or os.environ.get(VARIABLE)):
        deployment = Deployment(_settings(config, paths, worker, workers, target.namespace))
        return run_to_end(stand(offer, where, _embedded(deployment), deployment.hurry))
    return run_to_end(stand(offer, where, _remote(target), lambda: None))


def _found(paths: Sequence[Path], variables: dict[str, Any]) -> list[GivenFlow]:
    """The flows in files and folders. In a folder, what has neither `steps` nor `output` is no flow. Raises `BadInput`, `FlowInvalid`."""
    found: list[GivenFlow] = []
    for path in flow_files(paths):
        if path in paths or _is_flow(path):
            document, compiled = read_flow(str(path))
            found.append(GivenFlow(path.stem, document.value, variables_of(compiled, variables)))
    if paths and not found:
        raise BadInput(f"there is no flow in {', '.join(map(str, paths))}", hint="a flow is a YAML or JSON file with `steps` or `output`")
    return found


def _is_flow(path: Path) -> bool:
    try:
        value = load(path.read_bytes(), name=str(path)).value
    except (OSError, FlowInvalid):
        return False
    return isinstance(value, dict) and not value.keys().isdisjoint(("steps", "output"))


def _settings(config: Path | None, paths: Sequence[Path], worker: tuple[str, ...], workers: int, namespace: str) -> DeploymentSettings:
    beside = paths[0] / "-" if paths and paths[0].is_dir() else paths[0] if paths else None
    found, _ = read_config(config, None if beside is None else str(beside))
    said, processes, parts = configured(found), worker_processes(worker, workers), parts_of(found)
    for line in (*parts.warnings, *unreachable(parts)):
        warn(line)
    return DeploymentSettings(
        broker=said.broker or ("embedded" if processes or parts.speak_to_broker else "memory"),
        journal=said.journal or "memory",
        store=said.store,
        blobs=said.blobs,
        durability=said.durability,
        namespace=namespace,
        partitions=said.partitions,
        config=found,
        processes=processes,
        gateway=gateway_settings(found, namespace, port=0) if parts.wants_gateway else None,
    )


@asynccontextmanager
async def _embedded(deployment: Deployment) -> AsyncGenerator[Opened]:
    async with deployment:
        yield Opened(await deployment.client(), deployment.guard)


@asynccontextmanager
async def _remote(target: Target) -> AsyncGenerator[Opened]:
    async with connected(target) as client:
        yield Opened(client, asyncio.ensure_future)
