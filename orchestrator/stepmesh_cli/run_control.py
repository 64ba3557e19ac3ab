"""Commands that stop, move or continue a run of a deployment: `pause`, `resume`, `wake`, `retry`, `fork`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from stepmesh import documents
from stepmesh.run_control import Changes
from stepmesh_broker.protocol.continuation import Continued
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.tables import print_json

Version = Annotated[
    str | None,
    Parameter(
        name="--version",
        help="Its durable functions go on with that version of their code from now on: as `stepmesh workers` shows it, or a part of it.",
    ),
]


def pause(run: str, /, *, reason: str = "", target: Target = HERE, json: bool = False) -> int:
    """Start nothing new of a run and its sub-runs until it is resumed. Tasks that a pool has end, and their results count.

    Parameters
    ----------
    run
        Id of a root run.
    reason
        Kept with the run.
    json
        Print one JSON object.
    """
    return run_to_end(_pause(target, run, reason, json))


async def _pause(target: Target, run: str, reason: str, as_json: bool) -> int:
    async with connected(target) as client:
        accepted = await client.control.pause(run, reason)
    return _told(run, "paused", "was paused already" if accepted.existing else "paused", as_json)


def resume(run: str, /, *, version: Version = None, target: Target = HERE, json: bool = False) -> int:
    """Let a paused run go on where it stood, and try again at once what of it is blocked. Timers whose time has come meanwhile are due.

    Parameters
    ----------
    run
        Id of a root run.
    json
        Print one JSON object.
    """
    return run_to_end(_resume(target, run, version, json))


async def _resume(target: Target, run: str, version: str | None, as_json: bool) -> int:
    async with connected(target) as client:
        accepted = await client.control.resume(run, version=version)
    return _told(run, "running", "was not paused" if accepted.existing else "goes on", as_json)


def wake(run: str, /, *, item: int | None = None, step: str | None = None, target: Target = HERE, json: bool = False) -> int:
    """End the sleeps of a run now. Those of a sub-run are ended by its own id.

    Parameters
    ----------
    run
        Id of the run.
    item
        Only those of this item.
    step
        Only that of this step.
    json
        Print one JSON object.
    """
    return run_to_end(_wake(target, run, item, step, json))


async def _wake(target: Target, run: str, item: int | None, step: str | None, as_json: bool) -> int:
    async with connected(target) as client:
        woken = await client.control.wake(run, item=item, step=step)
    if as_json:
        print_json({"run": run, "woken": woken})
    else:
        print(f"run {run}: woke {', '.join(woken)}")
    return exits.OK


Items = Annotated[tuple[int, ...], Parameter(name="--item", help="Only this item; repeatable.")]
From = Annotated[str | None, Parameter(name="--from", help="Id of the step that runs again, with all that depends on it.")]
Key = Annotated[str | None, Parameter(name="--run-key", help="Makes it idempotent: the same key gives the same new run.")]


def retry(run: str, /, *, item: Items = (), from_step: From = None, run_key: Key = None, target: Target = HERE, json: bool = False) -> int:
    """Continue a run that failed or was cancelled in a new run; prints its id. It has the items that did not succeed, in which steps that
    succeeded keep their results: only what failed and what depends on it runs again.

    Parameters
    ----------
    run
        Id of the root run.
    json
        Print one JSON object.
    """
    return run_to_end(_retry(target, run, item, from_step, run_key, json))


async def _retry(target: Target, run: str, items: tuple[int, ...], from_step: str | None, key: str | None, as_json: bool) -> int:
    async with connected(target) as client:
        found = await client.control.retry(run, items=items or None, from_step=from_step, key=key)
    return _continued(run, found, as_json)


def fork(
    run: str,
    /,
    *,
    from_step: From = None,
    item: Items = (),
    input: Annotated[str | None, Parameter(help="File with the input that it has instead; `-` is stdin.")] = None,
    input_json: Annotated[str | None, Parameter(help="The same as JSON text.")] = None,
    inputs: Annotated[str | None, Parameter(help="File with one JSON input per line, one for each item.")] = None,
    variables: Annotated[str | None, Parameter(help="Other variables: a file, or an object as JSON text.")] = None,
    overrides: Annotated[str | None, Parameter(help="Other step overrides: a file, or an object as JSON text.")] = None,
    flow: Annotated[str | None, Parameter(help="Another flow: a file, or the id of a stored one.")] = None,
    run_key: Key = None,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Start a new run with the results of another one; prints its id. --from and what depends on it run again, and every step whose
    input is another one because of what is changed.

    Parameters
    ----------
    run
        Id of the root run; it may still run.
    json
        Print one JSON object.
    """
    from stepmesh_cli.inputs import InputSource, read_inputs, read_object

    given = None
    if input is not None or input_json is not None or inputs is not None:
        given = read_inputs(InputSource(file=input, json=input_json, lines=inputs))
    changes = Changes(
        flow=None if flow is None else flow if documents.known_id(flow) is not None else Path(flow),
        inputs=given,
        variables=read_object(variables, "--variables"),
        overrides=read_object(overrides, "--overrides"),
    )
    return run_to_end(_fork(target, run, {"from_step": from_step, "items": item or None, "changes": changes, "key": run_key}, json))


async def _fork(target: Target, run: str, options: dict[str, Any], as_json: bool) -> int:
    async with connected(target) as client:
        found = await client.control.fork(run, **options)
    return _continued(run, found, as_json)


def _told(run: str, status: str, text: str, as_json: bool) -> int:
    if as_json:
        print_json({"run": run, "status": status})
    else:
        print(f"run {run}: {text}")
    return exits.OK


def _continued(source: str, found: Continued, as_json: bool) -> int:
    if as_json:
        print_json({"source": source, **msgspec.structs.asdict(found)})
    else:
        print(found.run)
    return exits.OK
