"""`stepmesh submit`: start a run on a deployment."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepmesh import documents
from stepmesh.documents import FlowLike
from stepmesh_broker.protocol.api import Info
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.run import NOTHING, Submission, chosen_flow, ending
from stepmesh_cli.tables import print_json


def submit(
    flow_file: str | None = None,
    /,
    *,
    flow: str | None = None,
    submission: Submission = NOTHING,
    run_key: str | None = None,
    tag: tuple[str, ...] = (),
    tenant: str | None = None,
    wait: bool = False,
    timeout: float | None = None,
    output: Path | None = None,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Start a run on a deployment; prints its id once it is journaled, or with --wait its results.

    Parameters
    ----------
    flow_file
        The flow: a file, `-` for stdin, or the id of a stored flow.
    flow
        The same, as a flag.
    run_key
        Makes it idempotent: the same key gives the same run.
    tag
        NAME=VALUE, repeatable.
    tenant
        Namespace of the run, if it is one that shares the deployment.
    wait
        Wait, and print the FlowResults.
    timeout
        Seconds to wait; the run goes on after that.
    output
        File for the results instead of stdout.
    json
        Print one JSON object.
    """
    document, declared = _flow(chosen_flow(flow, flow_file))
    options = {**submission.options(declared), "run_key": run_key, "tags": tags_of(tag), "tenant": tenant}
    how = _How(wait or output is not None or timeout is not None, timeout, output, json)
    return run_to_end(_submit(target, document, submission.values(), options, how))


@dataclass(frozen=True, slots=True)
class _How:
    wait: bool
    timeout_s: float | None
    output: Path | None
    as_json: bool


async def _submit(target: Target, flow: FlowLike, inputs: list[Any], options: dict[str, Any], how: _How) -> int:
    from stepmesh_cli.progress import view, watch
    from stepmesh_cli.results import write_results

    async with connected(target) as client:
        began = time.monotonic()
        handle = await client.submit(flow, inputs, **options)
        info = await client.requests.info()
        if not how.wait:
            if how.as_json:
                print_json(
                    {
                        "run": handle.id,
                        "existing": handle.existing,
                        "items": len(inputs),
                        "durability": info.durability,
                        "survives": info.survives,
                    }
                )
            else:
                print(handle.id)
                say(accepted(info))
            return exits.OK
        say(f"run {handle.id} {accepted(info)}")
        watcher = asyncio.create_task(watch(client, handle.id, view(quiet=False)))
        try:
            summary = (await handle.wait(how.timeout_s)).summary
        finally:
            watcher.cancel()
            await asyncio.wait((watcher,))
        await write_results(handle, summary, how.as_json, how.output)
        say(ending(summary, time.monotonic() - began))
        return exits.OK if summary.status == "completed" else exits.FAILED


def accepted(info: Info) -> str:
    """What a submit that returned is worth."""
    return f"accepted ({info.durability}): it survives {info.survives or 'what its deployment says'}"


def _flow(given: str) -> tuple[FlowLike, dict[str, Any]]:
    """What the client takes, and the variables that it declares. An install without the server part leaves checking to the server."""
    if documents.known_id(given) is not None:
        return given, {}
    if importlib.util.find_spec("jsonschema_rs") is None:
        return Path(given), {}
    from stepmesh_cli.flow_files import read_flow

    document, compiled = read_flow(given)
    return document.value, compiled.variables


def tags_of(given: tuple[str, ...]) -> dict[str, str] | None:
    """NAME=VALUE flags as tags; None without any. Raises `CommandError`."""
    tags: dict[str, str] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not (name and separator):
            raise CommandError(f"--tag {one} is not NAME=VALUE", hint="for example --tag team=search")
        tags[name] = value
    return tags or None
