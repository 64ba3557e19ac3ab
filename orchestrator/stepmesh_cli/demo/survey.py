"""The batch as a client sees it: submit the survey, watch it, gather its results, submit the reduce. The same with and without chaos.

It talks to the deployment through `stepmesh.Client` only, and gives every submission a run key, so that a repeated one is no second run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from stepmesh import Client, RunHandle
from stepmesh_cli.demo.corpus import SourceFile
from stepmesh_cli.progress import View, watch

IN_FLIGHT = 64
"""Tasks of the batch that are in flight at once."""


def flow(name: str) -> dict[str, Any]:
    """A flow that comes with the demo: `survey` or `reduce`."""
    document: dict[str, Any] = yaml.safe_load(files("stepmesh_cli.demo").joinpath(f"{name}.yaml").read_text())
    return document


async def submit_survey(client: Client, corpus: Sequence[SourceFile], key: str, functions: int) -> RunHandle:
    """One run, one item per file."""
    inputs = [file.item() for file in corpus]
    return await client.submit(
        flow("survey"), inputs, variables={"functions": functions}, max_concurrency=IN_FLIGHT, run_key=key, tags={"demo": "survey"}
    )


async def watched(client: Client, handle: RunHandle, view: View | None, timeout: float) -> None:
    """Wait for the run while `view` shows it. Raises `WaitTimeout`."""
    watcher = asyncio.create_task(watch(client, handle.id, view))
    try:
        await handle.wait(timeout)
    finally:
        watcher.cancel()
        await asyncio.wait((watcher,))


async def gather(handle: RunHandle) -> dict[str, Any]:
    """The survey as the reduce flow takes it. An item that failed is left out of `files` and told in `failed`."""
    found: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    async for item in handle.items():
        result = msgspec.json.decode(item.result)
        (found if result["outcome"] == "success" else failed).append({"item": item.item, **(result.get("result") or result)})
    return {"files": found, "failed": failed}


async def reduce(client: Client, survey: dict[str, Any], run: dict[str, Any], path: Path, key: str, timeout: float) -> dict[str, Any]:
    """Have the report written to `path`; returns what its step says of it. Raises `RunFailed`, `WaitTimeout`."""
    blobs = {"survey": await client.put_blob(survey), "run": await client.put_blob(run)}
    handle = await client.submit(flow("reduce"), [{**blobs, "path": str(path)}], run_key=key, tags={"demo": "reduce"})
    written: dict[str, Any] = await handle.result(timeout)
    return written
