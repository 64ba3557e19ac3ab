"""Commands that tell runs what happened outside: `event send`, `approve`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.inputs import parse_value
from stepmesh_cli.tables import print_json

event = App(name="event", help="Send events to runs that wait for them.")


@event.command(name="send")
def send(
    name: str,
    /,
    *,
    key: str = "",
    data: str | None = None,
    id: str | None = None,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Send an event to everybody who waits at its address, now or later; returns once it is journaled.

    Example: stepmesh event send paid --key order-7 --data '{"amount": 12}'

    Parameters
    ----------
    name
        Name of the event.
    key
        Which one of that name: what the runs wait with, or the id of one run.
    data
        JSON or YAML; null without.
    id
        An event with an id that is known at the address already changes nothing.
    json
        Print one JSON object.
    """
    value = None if data is None else parse_value(data.encode(errors="surrogateescape"), "--data")
    return run_to_end(_send(target, {"name": name, "key": key, "data": value, "id": id}, json))


async def _send(target: Target, event: dict[str, Any], as_json: bool) -> int:
    async with connected(target) as client:
        kept = await client.events.send(event.pop("name"), **event)
    if as_json:
        print_json({"id": kept.id, "matched": kept.matched, "buffered": not kept.matched and not kept.existing, "existing": kept.existing})
    elif kept.existing:
        print(f"event {kept.id}: was there already")
    else:
        print(f"event {kept.id}: " + (f"{kept.matched} waited for it" if kept.matched else "kept for those who will wait for it"))
    return exits.OK


def approve(
    token: str,
    /,
    *,
    reject: Annotated[bool, Parameter(help="Decide against it.")] = False,
    comment: str | None = None,
    by: str | None = None,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """Decide on an approval by its token, which `stepmesh explain RUN` shows; returns once that is journaled.

    Parameters
    ----------
    token
        Of the approval.
    comment
        Kept with the decision.
    by
        Who decides; must be among the approvers if the step names any.
    json
        Print one JSON object.
    """
    return run_to_end(_approve(target, token, {"approved": not reject, "by": by, "comment": comment}, json))


async def _approve(target: Target, token: str, decision: dict[str, Any], as_json: bool) -> int:
    async with connected(target) as client:
        await client.promises.resolve(token, decision)
    if as_json:
        print_json(decision)
    else:
        print("approved" if decision["approved"] else "rejected")
    return exits.OK
