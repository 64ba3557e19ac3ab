"""The demo without chaos: one deployment in this process, three worker processes beside it, the survey, the reduce, the report.

Traced with the product's own telemetry, if OpenTelemetry is installed: that is where the waterfall of one item comes from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepmesh import Client, RunHandle
from stepmesh_broker.telemetry.span_file import SpanRecord, load
from stepmesh_cli.demo import survey
from stepmesh_cli.demo.history import History, read_history
from stepmesh_cli.demo.ledger import executions, read_lines
from stepmesh_cli.demo.stage import Stage, hiccup_note
from stepmesh_cli.demo.timings import facts, telling_item
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.progress import view
from stepmesh_cli.reporting import say
from stepmesh_cli.trace import spans_of
from stepmesh_cli.waterfall import waterfall

PATIENCE_S = 300.0
"""For the survey, and for the reduce."""
FUNCTIONS = 24
"""Functions of each file at most: the longest ones."""
TRACE_FILE = "STEPMESH_TRACE_FILE"
AXIS = 44
"""Characters of the waterfall's time axis."""


async def play(stage: Stage, quiet: bool = False) -> dict[str, Any]:
    """Run it; tells what it does on stderr. Returns `{report, files, failed, seconds, batch_s, executions, retries, unparsed, item,
    module, trace}`. Raises `StepmeshError`."""
    tell = _unheard if quiet else say
    began = time.monotonic()
    spans_file = _trace_into(stage.data / "spans.jsonl")
    settings = DeploymentSettings(
        broker="embedded", journal="sqlite", data_dir=stage.data, processes=stage.worker_processes(), say=_unheard
    )
    async with Deployment(settings) as deployment:
        tell(f"up in {time.monotonic() - began:.1f} s: embedded NATS, SQLite journal, 2 cpu workers and 1 accel worker in {stage.data}")
        client = await deployment.client()
        handle = await survey.submit_survey(client, stage.files, f"demo-survey-{stage.seed}", FUNCTIONS)
        tell(f"run {handle.id}: {len(stage.files)} files of the standard library")
        await deployment.guard(survey.watched(client, handle, view(quiet), PATIENCE_S))
        history = await read_history(deployment.node.ports.journal, deployment.node.ports.store)
        told = await deployment.guard(_report(stage, client, handle, history, tell))
        spans = [] if spans_file is not None else await spans_of(client, handle.id)
    spans = load(spans_file)[0] if spans_file is not None else spans
    return {**told, "seconds": round(time.monotonic() - began, 2), **_trace(stage, handle, history, spans)}


async def _report(stage: Stage, client: Client, handle: RunHandle, history: History, tell: Callable[[str], None]) -> dict[str, Any]:
    found = await survey.gather(handle)
    run = {**facts(history, executions(read_lines(stage.ledger)), handle.id), "about": stage.about(hiccup_note())}
    tell(f"{run['executions']} step executions in {run['seconds']:.1f} s; now the reduce")
    written = await survey.reduce(client, found, run, stage.report, f"demo-reduce-{stage.seed}", PATIENCE_S)
    return {
        "report": written["path"],
        "files": len(stage.files),
        "failed": found["failed"],
        "batch_s": run["seconds"],
        "executions": run["executions"],
        "retries": len(run["retries"]),
        "unparsed": sum(not file["outline"]["parsed"] for file in found["files"]),
    }


def _trace(stage: Stage, handle: RunHandle, history: History, spans: list[SpanRecord]) -> dict[str, Any]:
    item = telling_item(history, handle.id)
    return {"item": item, "module": stage.files[item].module, "trace": waterfall(spans, handle.id, item, AXIS)}


def _trace_into(path: Path) -> Path | None:
    """Have this process and its workers write spans to `path`, or to where the environment says already. None without OpenTelemetry."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        return None
    return Path(os.environ.setdefault(TRACE_FILE, str(path)))


def _unheard(_: str) -> None:
    """For lines that nobody wants."""
