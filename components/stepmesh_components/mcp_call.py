"""One call of a tool: wait for the server, call, tell progress, and say what became of it.

Invariant: a cancelled call is cancelled at the server too (the `mcp` package tells it), and one whose server ends is UNREACHABLE at
once, so that the engine tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError

from stepmesh import Context
from stepmesh_components import mcp_answers as answers
from stepmesh_components.mcp_link import Down, Link


async def call_tool(link: Link, tool: str, arguments: Mapping[str, Any] | None, context: Context) -> Any:
    """One call, from waiting for the server to the component's output. Raises `ComponentError`."""
    name = link.server.name
    try:
        connection = await link.connection()
    except Down as down:
        raise answers.unreachable(name, tool, str(down), down.lines) from None
    client = connection.client
    try:
        if tool not in link.tools:
            await link.refresh(client)
        if tool not in link.tools:
            raise answers.not_found(name, tool, link.tools)
        result = await client.call_tool(tool, dict(arguments or {}), progress_callback=_progress(context))
    except (MCPError, RuntimeError, ValueError) as problem:
        if isinstance(problem, MCPError) and answers.session_is_over(problem):
            connection.ending.over.set()
        elif (ended := await link.ended(connection)) is not None:
            raise answers.unreachable(name, tool, str(ended), ended.lines) from None
        raise answers.refused(name, tool, problem, over_http=link.server.url is not None) from None
    return answers.output(name, tool, result)


def _progress(context: Context) -> ProgressFnT:
    """What the server tells of its progress goes out with the worker's heartbeat."""

    async def told(progress: float, total: float | None, message: str | None) -> None:
        fraction = progress / total if total else None
        context.heartbeat(fraction, **({"done": progress} if message is None else {"done": progress, "message": message}))

    return told
