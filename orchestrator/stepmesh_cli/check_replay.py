"""`stepmesh check-replay orders.py`: the histories of a journal, replayed with the code that is here, before it is deployed.

Invariant: no step is done and nothing is sent or written; what a body is given comes from its history alone.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import uvloop
from cyclopts import Parameter

from stepmesh import Worker
from stepmesh.durable.app import App
from stepmesh.durable.divergence import Divergence
from stepmesh.durable.durations import seconds
from stepmesh.durable.takeover import place_of
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol import tokens
from stepmesh_broker.protocol.histories import Began, Issued, Record
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.letters import Waiter
from stepmesh_cli import exits
from stepmesh_cli.errors import CommandError
from stepmesh_cli.function_histories import Recorded, read_histories
from stepmesh_cli.journal_source import FileSource, ServerSource, source_of
from stepmesh_cli.replay import opened_store
from stepmesh_cli.tables import moment, print_json, print_table
from stepmesh_cli.worker import load_module
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.runtime.flows import FlowRegistry

Workflows = Mapping[str, Workflow[..., Any]]
"""By the paths of their components."""
_TOKEN = re.compile(rb"smt_[A-Za-z0-9_-]+")


def check_replay(
    module: str,
    /,
    *,
    workflow: Annotated[str | None, Parameter(help="Only histories of this workflow, by its name or path.")] = None,
    last: Annotated[int | None, Parameter(help="Only the newest ones.")] = None,
    since: Annotated[str | None, Parameter(help="Only those that began in this time: 12h, 30d.")] = None,
    data: Annotated[Path | None, Parameter(help="Data folder of the deployment, or its journal's file.")] = None,
    journal: Annotated[str | None, Parameter(help="Address of a journal on a server, as `stepmesh up` takes it.")] = None,
    store: Annotated[str | None, Parameter(help="Where the flows are; default: beside the journal.")] = None,
    namespace: Annotated[str, Parameter(help="Namespace.", env_var="STEPMESH_NAMESPACE")] = "default",
    json: Annotated[bool, Parameter(help="One JSON object on stdout.")] = False,
) -> int:
    """Replay the histories of durable functions that a journal holds with the code that is here. Exit code 1 when one diverges: its run
    would be blocked.

    Parameters
    ----------
    module
        MODULE or FILE.py with the apps, or the workflows.
    """
    if last is not None and last < 1:
        raise CommandError(f"--last {last} is below 1", hint="give how many histories, newest first")
    since_ms = 0 if since is None else round((time.time() - seconds(since)) * 1000)
    found = _chosen(workflows_of(load_module(module)), workflow, module)
    with source_of(data, journal, namespace) as source:
        histories = uvloop.run(_read(source, store))
    checked = check(histories, found, last, since_ms, all_components=workflow is None)
    if json:
        print_json(_told(checked))
    else:
        _print(checked, module)
    return exits.FAILED if checked.diverged else exits.OK


@dataclass(frozen=True, slots=True)
class Checked:
    """`results`: the histories that were replayed, oldest first, and what differed. `elsewhere`: how many others, by component."""

    results: Sequence[tuple[Recorded, Workflow[..., Any], Divergence | None]]
    elsewhere: Mapping[str, int]

    @property
    def diverged(self) -> int:
        """How many."""
        return sum(divergence is not None for _, _, divergence in self.results)


def check(histories: Iterable[Recorded], known: Workflows, last: int | None, since_ms: int, *, all_components: bool = True) -> Checked:
    """Replay those that began at `since_ms` or later, of them the `last` ones."""
    recent = [one for one in histories if one.began_ms >= since_ms]
    ours = [one for one in recent if one.component in known]
    elsewhere = Counter(one.component for one in recent if one.component not in known and all_components)
    chosen = ours if last is None else ours[-last:]
    return Checked([(one, known[one.component], replayed(known[one.component], one)) for one in chosen], elsewhere)


def replayed(workflow: Workflow[..., Any], recorded: Recorded) -> Divergence | None:
    """What differs when the code that is here gets this history; None when nothing does."""
    begun = next((record for record in recorded.records if isinstance(record, Began)), Began(recorded.began_ms))
    token_of, place = partial(_token, _tokens(recorded.records), recorded), place_of(recorded.records) or recorded.place
    execution = workflow.begin(recorded.run, recorded.input, begun.at_ms, recorded=begun.version, place=place, token_of=token_of)
    try:
        return execution.turn(recorded.records).divergence
    finally:
        execution.drop()


def _tokens(records: Iterable[Record]) -> dict[str, str]:
    """Those that the body handed out, by their commands: only its deployment can make them."""
    texts = (text.decode() for one in records if isinstance(one, Issued) for text in _TOKEN.findall(one.arguments))
    return {waiter.command: text for text in texts if (waiter := tokens.read_token(text)) is not None}


def _token(known: Mapping[str, str], recorded: Recorded, command: str) -> str:
    return known.get(command) or tokens.token_of(Waiter(recorded.run, 0, 0, 0, command, RunId("")), "")


def workflows_of(module: ModuleType) -> dict[str, Workflow[..., Any]]:
    """Those of the module's apps, those that stand in it themselves, and those that its workers offer under paths of their pools."""
    members = list(vars(module).values())
    found = {one.path: one for one in members if isinstance(one, Workflow)}
    found |= {one.path: one for app in members if isinstance(app, App) for one in app.workflows.values()}
    names = {one.name: one for one in found.values()}
    for worker in (one for one in members if isinstance(one, Worker)):
        offered = (component.path.removeprefix("/") for component in worker)
        found |= {f"/{worker.pool}/{name}": names[name] for name in offered if name in names}
    return found


def _chosen(found: dict[str, Workflow[..., Any]], wanted: str | None, module: str) -> Workflows:
    if not found:
        raise CommandError(f"{module} has no workflow", code="SM-0310", hint="name the module with the app: app = App(…), @app.workflow")
    chosen = {path: one for path, one in found.items() if wanted in (None, one.name, path)}
    if not chosen:
        raise CommandError(f"{module} has no workflow {wanted!r}", code="SM-0311", hint=f"there is {', '.join(sorted(found))}")
    return chosen


async def _read(source: FileSource | ServerSource, store: str | None) -> list[Recorded]:
    async with source.opened() as journal, opened_store(source, store) as kept:
        return await read_histories(journal, FlowRegistry(kept, SystemClock()))


# --- what is said -----------------------------------------------------------------------------------------------------


def _told(checked: Checked) -> dict[str, Any]:
    return {
        "replayed": len(checked.results),
        "diverged": checked.diverged,
        "not_there": dict(checked.elsewhere),
        "histories": [_one(recorded, workflow, found) for recorded, workflow, found in checked.results],
    }


def _one(recorded: Recorded, workflow: Workflow[..., Any], found: Divergence | None) -> dict[str, Any]:
    told = {
        "run": recorded.run,
        "step": recorded.step_id,
        "workflow": workflow.name,
        "began_ms": recorded.began_ms,
        "records": len(recorded.records),
        "status": "ok" if found is None else "diverged",
    }
    return told if found is None else {**told, "code": found.code, "at": found.id, "where": found.where, "message": str(found)}


def _print(checked: Checked, module: str) -> None:
    if checked.results:
        rows = [
            (one.run, workflow.name, moment(one.began_ms), len(one.records), "ok" if found is None else f"DIVERGED at {found.id}")
            for one, workflow, found in checked.results
        ]
        print_table(("run", "workflow", "began", "records", "replay"), rows)
    for _, _, found in checked.results:
        if found is not None:
            print(f"\n{found}")
    for component, count in sorted(checked.elsewhere.items()):
        print(f"{component}: {count} histories, and no such workflow in {module}")
    print(
        f"{len(checked.results)} replayed, {checked.diverged} diverged, {sum(checked.elsewhere.values())} of workflows that are not there"
    )
