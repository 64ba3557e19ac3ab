"""Commands that tell runs what happened outside: `event send`, `approve`; and which of them wait for a decision: `approvals`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import App, Parameter
from msgspec.json import decode

from stepmesh import Client
from stepmesh.errors import RunNotFound
from stepmesh_broker.protocol.api import GetSteps, RunSummary, Steps, StepStatus
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.inputs import parse_value
from stepmesh_cli.tables import moment, print_json, print_table, raw

event = App(name="event", help="Send events to runs that wait for them.")


@event.command(name="send")
def send(
    name: str,
    /,
    *,
    key: str = "",
    data: str | None = None,
    id: str | None = None,
    tenant: str | None = None,
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
    tenant
        For runs of that namespace.
    json
        Print one JSON object.
    """
    value = None if data is None else parse_value(data.encode(errors="surrogateescape"), "--data")
    return run_to_end(_send(target, {"name": name, "key": key, "data": value, "id": id, "tenant": tenant}, json))


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


def approvals(*, flow: str | None = None, limit: int = 1000, target: Target = HERE, json: bool = False) -> int:
    """List approvals that wait for a decision, of the newest runs that have not ended.

    Parameters
    ----------
    flow
        Only runs of the flow with this name.
    limit
        Look at so many runs at most.
    json
        Print one JSON object per line.
    """
    return run_to_end(_approvals(target, flow, limit, json))


async def _approvals(target: Target, flow: str | None, limit: int, as_json: bool) -> int:
    async with connected(target) as client:
        runs = await client.list_runs(status="running", flow_name=flow, limit=limit)
        found = [(run, step) for run in runs for step in await _asking(client, run.run)]
    if as_json:
        for run, step in found:
            print_json({"run": run.run, "item": step.item, "step": step.step_id, "token": step.token, "asks": raw(step.details)})
    else:
        print_table(("run", "flow", "item", "step", "since", "title", "token"), (_approval_row(run, step) for run, step in found))
    return exits.OK


async def _asking(client: Client, run: RunId) -> list[StepStatus]:
    """Steps of a run that wait for a decision; none when it ended meanwhile."""
    try:
        return [step async for step in _steps(client, run) if step.token and "event" not in _asks(step)]
    except RunNotFound:
        return []


async def _steps(client: Client, run: RunId) -> AsyncIterator[StepStatus]:
    first, more = 0, True
    while more:
        page = await client.requests.ask(GetSteps(run, None, first), Steps)
        for step in page.steps:
            yield step
        more = page.more and bool(page.steps)
        first = page.steps[-1].item + 1 if page.steps else first


def _approval_row(run: RunSummary, step: StepStatus) -> tuple[Any, ...]:
    return run.run, run.flow_name, step.item, step.step_id, moment(step.started_ms or 0), _asks(step).get("title", ""), step.token


def _asks(step: StepStatus) -> dict[str, Any]:
    """What is to be decided; of a wait for an event, its address."""
    asks: dict[str, Any] = decode(step.details or b"{}")
    return asks
