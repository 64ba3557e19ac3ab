"""Tools served over the Model Context Protocol: on stdin and stdout, or over streamable HTTP.

Invariant: on stdio nothing but the protocol reaches stdout. Both end when they are cancelled, whatever the other side does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, cast

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, Tool

from stepmesh.client import Client
from stepmesh_cli.errors import PortUnusable
from stepmesh_cli.tools.calls import run_tool
from stepmesh_cli.tools.catalogue import FlowTool

PATH = "/mcp"
_CHUNK = 65536
GRACE_S = 2
"""How long answers that are under way may take when the server ends, in seconds."""
_Context = ServerRequestContext[Any, Any]


def server_of(client: Client, tools: Mapping[str, FlowTool]) -> Server[Any]:
    """The protocol's view of the tools, by name."""
    listed = [
        Tool(
            name=tool.name,
            title=tool.title,
            description=tool.description,
            input_schema=tool.input_schema,
            output_schema=tool.output_schema,
            _meta={"stepmesh/flow_id": tool.flow},
        )
        for tool in tools.values()
    ]

    async def list_tools(_context: _Context, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    async def call_tool(context: _Context, params: CallToolRequestParams) -> CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            near = get_close_matches(params.name, tools, n=3, cutoff=0.5) or list(tools)[:10]
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; nearest: {', '.join(near)}")
        asked = (context.meta or {}).get("progress_token") is not None
        return await run_tool(client, tool, params.arguments, context.session.report_progress if asked else None)

    return Server("stepmesh", version=version("stepmesh"), on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_stdio(server: Server[Any]) -> None:
    """Until stdin ends."""
    async with stdio_server(stdin=cast("anyio.AsyncFile[str]", _StandardInput())) as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


class _StandardInput:
    """Lines of stdin. A daemon thread reads them, so that a read that waits does not hold up the end of the process; it holds no lock
    of Python's own stdin either, which the interpreter would want then."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []
        threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), name="stepmesh mcp stdin", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        data = b"-"
        while data:
            data = os.read(0, _CHUNK)
            try:
                put = asyncio.run_coroutine_threadsafe(self._chunks.put(data), loop)
            except RuntimeError:  # the loop is closed: nobody reads any more
                return
            put.result()

    def __aiter__(self) -> _StandardInput:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            chunk = await self._chunks.get()
            if not chunk:
                raise StopAsyncIteration
            *ended, rest = chunk.split(b"\n")
            if ended:
                ended[0] = b"".join((*self._begun, ended[0]))
                self._begun.clear()
            self._lines.extend(ended)
            self._begun.append(rest)
        return self._lines.popleft().decode(errors="replace")


async def serve_http(server: Server[Any], host: str, port: int, ready: Callable[[int], None]) -> None:
    """Until it is cancelled. `ready` hears of the port. Raises `PortUnusable`."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as problem:
        raise PortUnusable.of(host, port) from problem
    with listening:
        app = server.streamable_http_app(streamable_http_path=PATH, host=host)
        web = _Uvicorn(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=GRACE_S))
        serving = asyncio.create_task(web.serve(sockets=[listening]), name="stepmesh mcp http")
        try:
            ready(listening.getsockname()[1])
            await asyncio.shield(serving)
        finally:
            web.should_exit = True
            await asyncio.wait((serving,))


class _Uvicorn(uvicorn.Server):
    """Signals are the command's business."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """See the class."""
        yield
