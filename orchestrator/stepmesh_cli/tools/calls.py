"""A call of a tool as a run: submit, tell progress, wait, and give the result or the failure.

Invariants: a call that is cancelled cancels its run; every answer names the run. A run that failed is a result that says so
(`isError`), for the model that called; only a tool that does not exist is an error of the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec
from mcp.types import CallToolResult, TextContent

from stepmesh.client import Client
from stepmesh.errors import RunFailed, StepmeshError
from stepmesh.runs import RunHandle
from stepmesh_cli.tools.catalogue import FlowTool

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Progress so far, of how much, and a line about it."""

RUN_ID = "stepmesh/run_id"
"""Key of an answer's `_meta`: the run."""
ERROR = "stepmesh/error"
"""Key of an answer's `_meta`: code, message and data of what failed."""
CANCEL_S = 10.0
"""How long a cancelled call tries to cancel its run, in seconds."""
MOST_DATA = 4_000
"""Characters of an error's data that are shown to the model; `_meta` has all."""
_ENDED = {"step_completed": "completed", "step_failed": "failed", "step_defaulted": "used its default", "step_skipped": "was skipped"}


async def run_tool(client: Client, tool: FlowTool, arguments: Mapping[str, Any] | None, report: Report | None) -> CallToolResult:
    """`report` None: nobody asks for progress. Raises nothing of Stepmesh's own."""
    run = ""
    try:
        submission = asyncio.create_task(client.submit(tool.flow, [tool.input_of(arguments)], variables=tool.variables))
        with anyio.CancelScope(shield=True):  # a run that was submitted is one that can be cancelled
            await asyncio.wait((submission,))
        handle = submission.result()
        run = handle.id
        return _succeeded(tool, run, await _result(handle, tool, report))
    except RunFailed as problem:
        return _failed(run, problem.error_code, problem.error_message, problem.data)
    except StepmeshError as problem:
        hint = f" ({problem.hint})" if problem.hint else ""
        return _failed(run, problem.code, f"{problem.message}{hint}", getattr(problem, "data", None))


async def _result(handle: RunHandle, tool: FlowTool, report: Report | None) -> Any:
    watcher = None if report is None else asyncio.create_task(_tell(handle, tool, report), name=f"stepmesh mcp progress {handle.id}")
    try:
        return await handle.result()
    except asyncio.CancelledError:
        with anyio.move_on_after(CANCEL_S, shield=True):
            await handle.cancel("the MCP client cancelled the call")
        raise
    finally:
        if watcher is not None:
            watcher.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((watcher,))


async def _tell(handle: RunHandle, tool: FlowTool, report: Report) -> None:
    """Each step that ended is progress; steps of sub-runs are not counted."""
    done = 0
    async for event in handle.events():
        if event.run == handle.id and event.kind in _ENDED:
            done += 1
            await report(done, max(tool.steps, done), f"{event.step_id} {_ENDED[event.kind]}")


def _succeeded(tool: FlowTool, run: str, result: Any) -> CallToolResult:
    text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    return CallToolResult(content=[TextContent(text=text)], structured_content=tool.structured(result), _meta={RUN_ID: run})


def _failed(run: str, code: str, message: str, data: Any) -> CallToolResult:
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    content = [TextContent(text=f"{code}: {message}")]
    if data is not None:
        shown = msgspec.json.encode(data).decode()
        content.append(TextContent(text=shown if len(shown) <= MOST_DATA else f"{shown[:MOST_DATA]}… ({len(shown)} characters)"))
    return CallToolResult(content=[*content], is_error=True, _meta={ERROR: error, **({RUN_ID: run} if run else {})})
