"""Commands on runs of a deployment: `status`, `list`, `cancel`, `delete`, `explain`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stepmesh_broker.protocol.api import GetSteps, RunSummary, Steps, StepStatus
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.results import summary_json
from stepmesh_cli.tables import moment, print_json, print_table, raw, span

Status = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]


def status(run: str, /, *, item: int | None = None, target: Target = HERE, json: bool = False) -> int:
    """Show a run and its steps. Exit code 1 when it failed or was cancelled.

    Parameters
    ----------
    run
        Id of the run.
    item
        Only the steps of this item.
    json
        Print one JSON object.
    """
    return run_to_end(_status(target, run, item, json))


async def _status(target: Target, run: str, item: int | None, as_json: bool) -> int:
    async with connected(target) as client:
        summary = (await client.handle(run).info()).summary
        steps = (await client.requests.ask(GetSteps(RunId(run), item), Steps)).steps
    if as_json:
        print_json({"run": msgspec.Raw(summary_json(summary)), "steps": [_step(step) for step in steps]})
    else:
        print_table(("run", "flow", "status", "items", "failed", "created", "took"), [_row(summary)])
        print()
        print_table(("item", "step", "component", "status", "attempt", "took"), map(_step_row, steps))
        noted = [step for step in steps if step.attributes or step.tags]
        if noted:
            print()
            print_table(("item", "step", "attributes", "tags"), map(_noted_row, noted))
    return exits.FAILED if summary.status in ("failed", "cancelled") else exits.OK


def list_runs(
    *,
    status: Status | None = None,
    flow: str | None = None,
    roots: bool = False,
    tenant: str | None = None,
    limit: int = 50,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """List runs, newest first.

    Parameters
    ----------
    status
        Only these.
    flow
        Only runs of the flow with this name.
    roots
        Leave sub-runs out.
    tenant
        Runs of this namespace, if it is one that shares the deployment.
    limit
        At most so many.
    json
        Print one JSON object per line.
    """
    query = {"status": status, "flow_name": flow, "roots_only": roots, "limit": limit, "tenant": tenant}
    return run_to_end(_list(target, query, json))


async def _list(target: Target, query: dict[str, Any], as_json: bool) -> int:
    async with connected(target) as client:
        runs = await client.list_runs(**query)
    if as_json:
        for summary in runs:
            print_json(msgspec.Raw(summary_json(summary)))
    else:
        print_table(("run", "flow", "status", "items", "failed", "created", "took"), map(_row, runs))
    return exits.OK


def cancel(run: str, /, *, reason: str = "cancelled from the command line", target: Target = HERE, json: bool = False) -> int:
    """Stop a run and its sub-runs; returns once that is journaled.

    Parameters
    ----------
    run
        Id of the run.
    reason
        Kept with the run.
    json
        Print one JSON object.
    """
    return run_to_end(_cancel(target, run, reason, json))


async def _cancel(target: Target, run: str, reason: str, as_json: bool) -> int:
    async with connected(target) as client:
        await client.cancel(run, reason)
        now = (await client.handle(run).info()).summary.status
    if as_json:
        print_json({"run": run, "status": now})
    else:
        print(f"run {run}: {now}")
    return exits.OK


def delete(run: str, /, *, target: Target = HERE, json: bool = False) -> int:
    """Remove an ended run for good, with its sub-runs and their results.

    Parameters
    ----------
    run
        Id of the run.
    json
        Print one JSON object.
    """
    return run_to_end(_delete(target, run, json))


async def _delete(target: Target, run: str, as_json: bool) -> int:
    async with connected(target) as client:
        await client.delete_run(run)
    if as_json:
        print_json({"run": run, "status": "deleted"})
    else:
        print(f"run {run}: deleted")
    return exits.OK


def explain(run: str, /, *, target: Target = HERE, json: bool = False) -> int:
    """Say what each step of a run waits for.

    Parameters
    ----------
    run
        Id of the run.
    json
        Print one JSON object.
    """
    return run_to_end(_explain(target, run, json))


async def _explain(target: Target, run: str, as_json: bool) -> int:
    async with connected(target) as client:
        lines = await client.explain(run)
    if as_json:
        print_json({"run": run, "causes": lines})
    else:
        print("\n".join(lines))
    return exits.OK


def _row(run: RunSummary) -> tuple[Any, ...]:
    ended = run.completed + run.failed + run.cancelled
    items = f"{ended}/{run.total}"
    return run.run, run.flow_name, run.status, items, run.failed, moment(run.created_ms), span(run.created_ms, run.finished_ms)


def _step_row(step: StepStatus) -> tuple[Any, ...]:
    took = span(step.started_ms, step.finished_ms)
    return step.item, step.step_id, step.component, step.status, step.attempt or None, took


def notes(step: StepStatus) -> dict[str, msgspec.Raw | None]:
    """What a durable function noted down for others to see."""
    return {"attributes": raw(step.attributes), "tags": raw(step.tags)}


def _noted_row(step: StepStatus) -> tuple[Any, ...]:
    return step.item, step.step_id, (step.attributes or b"").decode(), (step.tags or b"").decode()


def _step(step: StepStatus) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.structs.asdict(step)
    return {**plain, "output": raw(step.output), "failure": raw(step.failure), **notes(step)}
