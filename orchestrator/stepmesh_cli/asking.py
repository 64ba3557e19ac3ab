"""Commands that ask the durable function of a run: `update`, `query`."""

from __future__ import annotations

from typing import Any

from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.inputs import parse_value
from stepmesh_cli.tables import print_json


def update(
    run: str,
    name: str,
    /,
    *,
    json_args: str | None = None,
    id: str | None = None,
    item: int | None = None,
    step: str | None = None,
    timeout: float = 30.0,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Ask the durable function of a run for a change, and print its reply.

    Parameters
    ----------
    run
        Id of the run.
    name
        Of the update, as the workflow declares it.
    json_args
        JSON or YAML: its arguments.
    id
        The same one is the same update, however often it is asked.
    item
        Whose function, where several items have one.
    step
        Which one, where several steps are functions.
    timeout
        Seconds to wait for the reply.
    json
        Print one JSON object.
    """
    arguments = None if json_args is None else parse_value(json_args.encode(errors="surrogateescape"), "--json-args")
    options = {"id": id, "item": item, "step": step, "timeout": timeout}
    return run_to_end(_update(target, (run, name), arguments, options, json))


async def _update(target: Target, asked: tuple[str, str], arguments: Any, options: dict[str, Any], as_json: bool) -> int:
    run, name = asked
    async with connected(target) as client:
        reply = await client.handle(run).update(name, arguments, **options)
    print_json({"run": run, "update": name, "reply": reply} if as_json else reply)
    return exits.OK


def query(
    run: str,
    name: str,
    /,
    *,
    json_args: str | None = None,
    item: int | None = None,
    step: str | None = None,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Ask the durable function of a run how it stands; nothing is recorded.

    Parameters
    ----------
    run
        Id of the run.
    name
        Of the query, as the workflow declares it.
    json_args
        JSON or YAML: its arguments.
    item
        Whose function, where several items have one.
    step
        Which one, where several steps are functions.
    json
        Print one JSON object.
    """
    arguments = None if json_args is None else parse_value(json_args.encode(errors="surrogateescape"), "--json-args")
    return run_to_end(_query(target, (run, name), arguments, {"item": item, "step": step}, json))


async def _query(target: Target, asked: tuple[str, str], arguments: Any, options: dict[str, Any], as_json: bool) -> int:
    run, name = asked
    async with connected(target) as client:
        value = await client.handle(run).query(name, arguments, **options)
    print_json({"run": run, "query": name, "value": value} if as_json else value)
    return exits.OK
