"""`stepmesh run`: a flow, its inputs, and a deployment that lives just as long."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from stepmesh.client import Client
from stepmesh.errors import WaitTimeout
from stepmesh_broker.protocol.api import RunSummary
from stepmesh_cli import exits
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config, read_flow
from stepmesh_cli.inputs import InputSource, from_environment, read_inputs, read_object
from stepmesh_cli.plugins import parts_of, unreachable
from stepmesh_cli.progress import view, watch
from stepmesh_cli.reporting import say, warn
from stepmesh_cli.results import write_results
from stepmesh_cli.settings import configured, gateway_settings, worker_processes


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is run, and with what. Files are JSON or YAML; `-` is stdin."""

    input: Annotated[str | None, Parameter(help="File with the input.")] = None
    input_json: Annotated[str | None, Parameter(help="The input as JSON text.")] = None
    input_yaml: Annotated[str | None, Parameter(help="The input as YAML text.")] = None
    inputs: Annotated[str | None, Parameter(help="File with one JSON input per line: a batch.")] = None
    variables: Annotated[str | None, Parameter(help="Run variables: a file, or an object as JSON text.")] = None
    overrides: Annotated[str | None, Parameter(help="Step overrides: a file, or an object as JSON text.")] = None
    max_concurrency: Annotated[int | None, Parameter(help="Tasks of the run in flight at once; 0 is no limit.")] = None
    priority: Annotated[int, Parameter(help="From -100 to 100: of two tasks that wait, the higher one goes first.")] = 0

    def values(self) -> list[Any]:
        """One input per item. Raises `BadInput`."""
        return read_inputs(InputSource(file=self.input, json=self.input_json, yaml=self.input_yaml, lines=self.inputs))

    def options(self, declared: dict[str, Any]) -> dict[str, Any]:
        """For `Client.submit`. `declared`: the flow's variables. Raises `BadInput`."""
        variables = from_environment(declared, read_object(self.variables, "--variables"), os.environ)
        overrides = read_object(self.overrides, "--overrides")
        return {"variables": variables, "overrides": overrides, "max_concurrency": self.max_concurrency, "priority": self.priority}


NOTHING = Submission()
CANCEL_S = 2.0
"""How long an interrupted command tries to cancel its run, in seconds."""


def chosen_flow(flow: str | None, flag: str | None) -> str:
    """The flow given by place or by `--flow`. Raises `CommandError` for none or two."""
    if (flow is None) == (flag is None):
        raise CommandError("give one flow", hint="stepmesh run FLOW, or --flow FLOW")
    return flow if flow is not None else str(flag)


def run(
    flow_file: str | None = None,
    /,
    *,
    flow: str | None = None,
    config: Path | None = None,
    submission: Submission = NOTHING,
    worker: tuple[str, ...] = (),
    workers: int = 1,
    broker: str | None = None,
    journal: str | None = None,
    store: str | None = None,
    data: Path | None = None,
    namespace: str = "default",
    timeout: float | None = None,
    output: Path | None = None,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Run a flow here, and print its FlowResult as JSON (one per line for a batch).

    Parameters
    ----------
    flow_file
        The flow: a YAML or JSON file, or `-` for stdin.
    flow
        The same, as a flag.
    config
        Configuration file; default: the one beside the flow, then the one in the working folder.
    worker
        MODULE[:ATTR] or FILE.py[:ATTR] whose worker runs in processes of its own; repeatable.
    workers
        Processes of each --worker.
    broker
        memory, embedded, or the URL of NATS or Kafka; default: memory, or embedded when there are worker processes.
    journal
        memory, sqlite[:PATH], broker, or the URL of PostgreSQL, Redis, NATS or Kafka; default: memory, or sqlite with --data.
    store
        sqlite:PATH or postgres://…; default: where the journal is, else a file in --data.
    data
        Folder that keeps journal and broker; default: a temporary one if one is needed.
    namespace
        Namespace.
    timeout
        Seconds after which the run is cancelled.
    output
        File for the results instead of stdout.
    quiet
        No progress on stderr.
    json
        One JSON object with the run, its status and all results.
    """
    path = chosen_flow(flow, flow_file)
    document, compiled = read_flow(path)
    found, _ = read_config(config, path)
    said, processes = configured(found), worker_processes(worker, workers)
    parts = parts_of(found)
    for line in (*parts.warnings, *unreachable(parts)):
        warn(line)
    settings = DeploymentSettings(
        broker=broker or said.broker or ("embedded" if processes or parts.speak_to_broker else "memory"),
        journal=journal or said.journal or ("memory" if data is None else "sqlite"),
        store=said.store_for(journal, store),
        durability=said.durability,
        blobs=said.blobs,
        data_dir=data,
        namespace=namespace,
        partitions=said.partitions,
        config=found,
        processes=processes,
        gateway=gateway_settings(found, namespace, port=0) if parts.wants_gateway else None,
    )
    work = _Work(document.value, submission.values(), submission.options(compiled.variables), timeout, output, quiet, json)
    return run_to_end(_run(settings, work))


@dataclass(frozen=True, slots=True)
class _Work:
    flow: dict[str, Any]
    inputs: list[Any]
    options: dict[str, Any]
    timeout_s: float | None
    output: Path | None
    quiet: bool
    as_object: bool


async def _run(settings: DeploymentSettings, work: _Work) -> int:
    current = asyncio.current_task()
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        if current is not None:
            current.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        async with Deployment(settings) as deployment:
            return await deployment.guard(_submit_and_wait(await deployment.client(), work))
    except asyncio.CancelledError:
        if terminated.is_set():
            return exits.TERMINATED
        raise


async def _submit_and_wait(client: Client, work: _Work) -> int:
    began = time.monotonic()
    handle = await client.submit(work.flow, work.inputs, **work.options)
    watcher = asyncio.create_task(watch(client, handle.id, view(work.quiet)))
    try:
        summary = (await handle.wait(work.timeout_s)).summary
    except (WaitTimeout, asyncio.CancelledError) as problem:
        reason = "interrupted" if isinstance(problem, asyncio.CancelledError) else f"not done within {work.timeout_s:g} s"
        await asyncio.wait((asyncio.ensure_future(handle.cancel(reason)),), timeout=CANCEL_S)  # or its tasks would hold up the drain
        raise
    finally:
        watcher.cancel()
        await asyncio.wait((watcher,))
    await write_results(handle, summary, work.as_object, work.output)
    if not work.quiet:
        say(ending(summary, time.monotonic() - began))
    return exits.OK if summary.status == "completed" else exits.FAILED


def ending(summary: RunSummary, seconds: float) -> str:
    """The last line of a run, for a person."""
    items = "" if summary.total == 1 else f": {summary.completed} of {summary.total} items completed, {summary.failed} failed"
    took = f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    return f"run {summary.run} {summary.status} in {took}{items}"
