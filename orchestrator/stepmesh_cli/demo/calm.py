"""The demo without chaos: one deployment in this process, three worker processes beside it, the survey, the reduce, the report."""

from __future__ import annotations

import time
from typing import Any

from stepmesh_cli.demo import survey
from stepmesh_cli.demo.history import read_history
from stepmesh_cli.demo.item_trace import telling_item, waterfall
from stepmesh_cli.demo.ledger import executions, read_lines
from stepmesh_cli.demo.stage import Stage, hiccup_note
from stepmesh_cli.demo.timings import facts
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.progress import view
from stepmesh_cli.reporting import say

PATIENCE_S = 300.0
"""For the survey, and for the reduce."""
FUNCTIONS = 24
"""Functions of each file at most: the longest ones."""


async def play(stage: Stage, quiet: bool = False) -> dict[str, Any]:
    """Run it; tells what it does on stderr. Returns `{report, files, failed, seconds, executions, retries, trace, …}`. Raises
    `StepmeshError`."""
    tell = _unheard if quiet else say
    began = time.monotonic()
    settings = DeploymentSettings(
        broker="embedded",
        journal="sqlite",
        data_dir=stage.data,
        processes=stage.worker_processes(),
        say=_unheard,
    )
    async with Deployment(settings) as deployment:
        tell(f"up in {time.monotonic() - began:.1f} s: embedded NATS, SQLite journal, 2 cpu workers and 1 accel worker in {stage.data}")
        client = await deployment.client()
        handle = await survey.submit_survey(client, stage.files, f"demo-survey-{stage.seed}", FUNCTIONS)
        tell(f"run {handle.id}: {len(stage.files)} files of the standard library")
        await deployment.guard(survey.watched(client, handle, view(quiet), PATIENCE_S))
        found = await survey.gather(handle)
        history = await read_history(deployment.node.ports.journal, deployment.node.ports.store)
        done = executions(read_lines(stage.ledger))
        run = {**facts(history, done, handle.id), "about": stage.about(hiccup_note())}
        tell(f"{run['executions']} step executions in {run['seconds']:.1f} s; now the reduce")
        written = await deployment.guard(survey.reduce(client, found, run, stage.report, f"demo-reduce-{stage.seed}", PATIENCE_S))
    item = telling_item(history, handle.id)
    return {
        "report": written["path"],
        "files": len(stage.files),
        "failed": found["failed"],
        "seconds": round(time.monotonic() - began, 2),
        "batch_s": run["seconds"],
        "executions": run["executions"],
        "retries": len(run["retries"]),
        "unparsed": sum(not file["outline"]["parsed"] for file in found["files"]),
        "item": item,
        "module": stage.files[item].module,
        "trace": waterfall(history, done, handle.id, item),
    }


def _unheard(_: str) -> None:
    """For lines that nobody wants."""
