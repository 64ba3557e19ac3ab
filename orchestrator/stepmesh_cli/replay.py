"""`stepmesh replay RUN --until N`: how a run stood at a place of its journal, in the folder of a deployment that rests, or on a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvloop
from cyclopts import Parameter

from stepmesh_broker.protocol.api import StepStatus
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli import exits, function_moments
from stepmesh_cli.errors import CommandError
from stepmesh_cli.journal_source import FileSource, ServerSource, source_of
from stepmesh_cli.moments import Moment, moment_of
from stepmesh_cli.runs import notes
from stepmesh_cli.storage import store_of
from stepmesh_cli.tables import moment as shown_time
from stepmesh_cli.tables import print_json, print_table, raw
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.events import PER_FRAME
from stepmesh_orchestrator.ports import Store
from stepmesh_orchestrator.runtime.answers import ended_steps, live_steps
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.leases import Leases

LONGEST = 60
"""Characters of an output in the table."""


def replay(
    run: str,
    /,
    *,
    until: Annotated[int | None, Parameter(help="Frame, or position as `stepmesh events` shows it; default: the end.")] = None,
    record: Annotated[int | None, Parameter(help="Only the first N records of a durable function's history.")] = None,
    data: Annotated[Path | None, Parameter(help="Data folder of the deployment, or its journal's file.")] = None,
    journal: Annotated[str | None, Parameter(help="Address of a journal on a server, as `stepmesh up` takes it.")] = None,
    store: Annotated[str | None, Parameter(help="Where the flows are; default: beside the journal.")] = None,
    namespace: Annotated[str, Parameter(help="Namespace.", env_var="STEPMESH_NAMESPACE")] = "default",
    json: Annotated[bool, Parameter(help="One JSON object on stdout.")] = False,
) -> int:
    """Show a run as it stood at a place of its journal: its items and steps, their outputs, and what it waited for; of durable functions
    each command, what came of it, and where in the code it was issued.

    Parameters
    ----------
    run
        Id of the run.
    """
    with source_of(data, journal, namespace) as source:
        found = uvloop.run(_moment(source, store, RunId(run), until))
    if found is None:
        upto = "" if until is None else f" up to {until}"
        hint = "`stepmesh journal dump` shows what it holds; what was trimmed is gone"
        raise CommandError(f"the journal {source.name} has no run {run}{upto}", code="SM-0281", hint=hint)
    functions = function_moments.as_json(found.functions, found.step_ids, record)
    if record is not None and (record < 1 or not any(one["records"] >= record for one in functions)):
        longest = max((one["records"] for one in functions), default=0)
        message = f"--record {record}: the longest history of a durable function of run {run} has {longest} records here"
        raise CommandError(message, code="SM-1081", hint=f"give one from 1 to {longest}" if longest else "the run has none: leave it out")
    if json:
        print_json({**_told(found), "functions": functions})
    else:
        _print(found)
        for one in functions:
            _print_function(one)
    return exits.OK


async def _moment(source: FileSource | ServerSource, store: str | None, run: RunId, until: int | None) -> Moment | None:
    async with source.opened() as journal, opened_store(source, store) as kept:
        return await moment_of(journal, FlowRegistry(kept, SystemClock()), run, until)


@asynccontextmanager
async def opened_store(source: FileSource | ServerSource, store: str | None) -> AsyncGenerator[Store]:
    """The flows that belong to a journal, for reading."""
    kept = store_of(f"sqlite:{source.file}", store, "default") if isinstance(source, FileSource) else _on_server(source, store)
    await kept.open()
    try:
        yield kept
    finally:
        await kept.close()


def _on_server(source: ServerSource, store: str | None) -> Store:
    return store_of(source.address, store, source.namespace)


def _steps(found: Moment) -> dict[int, list[StepStatus]]:
    steps = {index: ended_steps(row) for index, row in found.ended.items()}
    steps.update((item.index, live_steps(item, Leases())) for item in found.active)
    return dict(sorted(steps.items()))


def _told(found: Moment) -> dict[str, Any]:
    run, steps = found.run, _steps(found)
    return {
        "run": run.run,
        "position": found.position,
        "frame": found.position // PER_FRAME,
        "at_ms": found.at_ms,
        "flow": run.flow,
        "status": run.status,
        "tags": run.tags,
        "items": [_item(found, index, steps.get(index, [])) for index in range(run.total)],
        "waiting_on": found.waits,
    }


def _item(found: Moment, index: int, steps: list[StepStatus]) -> dict[str, Any]:
    ended = found.ended.get(index)
    active = any(item.index == index for item in found.active)
    return {
        "item": index,
        "status": ended.status if ended is not None else "running" if active else "not_started",
        "input": raw(found.created.inputs[index]),
        "result": None if ended is None else raw(ended.result),
        "steps": [_step(step) for step in steps],
    }


def _step(step: StepStatus) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.structs.asdict(step)
    return {**plain, "output": raw(step.output), "failure": raw(step.failure), **notes(step)}


def _print(found: Moment) -> None:
    run = found.run
    ended = run.completed + run.failed + run.cancelled
    print(f"run {run.run} at position {found.position} (frame {found.position // PER_FRAME}, {shown_time(found.at_ms)}): {run.status}")
    print(f"{ended} of {run.total} items had ended")
    print()
    rows = [
        (step.item, step.step_id, step.status, step.attempt or None, _shown(step)) for steps in _steps(found).values() for step in steps
    ]
    print_table(("item", "step", "status", "attempt", "output"), rows)
    if found.waits:
        print("\nIt waited for:")
        print("\n".join(f"- {line}" for line in found.waits))


def _print_function(told: dict[str, Any]) -> None:
    upto = "" if told["upto"] == told["records"] else f", the first {told['upto']} of them"
    taken = f"; {told['taken_over']} were taken over from another run" if told["taken_over"] else ""
    print(f"\nThe function at step {told['step']} of item {told['item']} has {told['records']} records{upto}{taken}:")
    head = ("record", "command", "kind", "state", "at", "value")
    rows = [(one["record"], one["id"], one["kind"], one["state"], one["where"], _short(one["value"])) for one in told["commands"]]
    print_table(head, rows)
    if told["waits_at"]:
        print(f"Its body waits at {', '.join(dict.fromkeys(told['waits_at']))}")
    if told["blocked"]:
        print(f"It is blocked: {told['blocked']}")


def _short(value: Any) -> str | None:
    return None if value is None else _cut(bytes(value).decode())


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _shown(step: StepStatus) -> str | None:
    text = step.output if step.output is not None else step.failure
    return None if text is None else _cut(text.decode())
