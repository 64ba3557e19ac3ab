"""A small survey, run once in memory with the demo's own flow and components: journal and ledger for tests to look at and to doctor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepmesh import Worker
from stepmesh.component import Components
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo import accel, survey, workers
from stepmesh_cli.demo.corpus import SourceFile, choose
from stepmesh_cli.demo.history import Entry, History, read_history
from stepmesh_cli.demo.ledger import Execution, Ledger, executions, read_lines
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_orchestrator.core.events import Event

FILES = 20
FUNCTIONS = 3


@dataclass(frozen=True)
class Recorded:
    files: list[SourceFile]
    root: RunId
    survey: dict[str, Any]
    history: History
    executions: list[Execution]

    def doctored(self, *entries: Entry) -> History:
        """The history with these entries instead."""
        return replace(self.history, entries=list(entries))

    def first(self, kind: type[Event], run: RunId | None = None) -> Entry:
        """The first event of a kind, of one run if it is given."""
        return next(entry for entry in self.history.entries if isinstance(entry.event, kind) and run in (None, entry.event.run))

    def without(self, gone: Entry) -> History:
        return self.doctored(*(entry for entry in self.history.entries if entry is not gone))


async def record(folder: Path) -> Recorded:
    files = choose(0, FILES, folder / "truncated")
    ledger = folder / "ledger"
    own = (_worker("cpu", workers.cpu, ledger), _worker("accel", accel.accel, ledger))
    async with Deployment(DeploymentSettings(workers=own)) as deployment:
        client = await deployment.client()
        handle = await survey.submit_survey(client, files, "recorded", FUNCTIONS)
        await deployment.guard(survey.watched(client, handle, None, 60))
        found = await survey.gather(handle)
        history = await read_history(deployment.node.ports.journal, deployment.node.ports.store)
    return Recorded(files, handle.id, found, history, executions(read_lines(ledger)))


def _worker(pool: str, components: Components, ledger: Path) -> Worker:
    worker = Worker(pool, concurrency=4, instrument=Ledger(ledger, pool))
    worker.include(components)
    return worker
