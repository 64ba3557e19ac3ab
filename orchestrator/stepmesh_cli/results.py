"""The results of a run as text: a FlowResult per item and line, or one object with `--json`. Payloads are spliced, never re-encoded."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec

from stepmesh.runs import RunHandle
from stepmesh_broker.protocol.api import RunSummary
from stepmesh_cli.errors import BadInput


def summary_json(summary: RunSummary) -> bytes:
    """A run for programs: names as in the API, times in ms since 1970."""
    return msgspec.json.encode(
        {
            "run": summary.run,
            "flow": summary.flow,
            "flow_name": summary.flow_name,
            "status": summary.status,
            "items": {"total": summary.total, "completed": summary.completed, "failed": summary.failed, "cancelled": summary.cancelled},
            "created_ms": summary.created_ms,
            "finished_ms": summary.finished_ms,
            "root": summary.root,
            "parent": summary.parent,
            "tags": summary.tags,
        }
    )


async def write_results(handle: RunHandle, summary: RunSummary, as_object: bool, output: Path | None) -> None:
    """All ended items, in order, to `output` or stdout. Raises `BadInput` when the file cannot be written."""
    if output is None:
        await _write(sys.stdout.buffer, handle, summary, as_object)
        sys.stdout.buffer.flush()
        return
    try:
        with output.open("wb") as file:
            await _write(file, handle, summary, as_object)
    except OSError as problem:
        raise BadInput(f"cannot write {output}: {problem.strerror or problem}", hint="check --output") from problem


async def _write(to: IO[bytes], handle: RunHandle, summary: RunSummary, as_object: bool) -> None:
    results = _results(handle)
    if not as_object:
        async for result in results:
            to.write(result + b"\n")
        return
    to.write(summary_json(summary)[:-1] + b',"results":[')
    first = True
    async for result in results:
        to.write(result if first else b"," + result)
        first = False
    to.write(b"]}\n")


async def _results(handle: RunHandle) -> AsyncIterator[bytes]:
    async for item in handle.items():
        yield item.result
