"""Web servers of these tests, in the test's own event loop: one that the `mcp` package serves, and one of the older protocol by hand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def served(app: Any, port: int) -> AsyncGenerator[str]:
    """The address under which `app` answers at `/mcp`."""
    server = _Quiet(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        await task


class Modern:
    """A server of the `mcp` package. `headers`: those of each request; `events`: what its tools went through."""

    def __init__(self, token: str = "") -> None:
        self.headers: list[dict[str, str]] = []
        self.events: list[str] = []
        self.token = token
        server = self.server = MCPServer("modern")

        @server.tool()
        def hello(name: str) -> dict[str, str]:
            """Says hello."""
            return {"greeting": f"Hello, {name}!"}

        @server.tool()
        async def wait(ctx: Context[Any, Any]) -> str:
            self.events.append("began")
            await ctx.report_progress(1, 2, "half")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.events.append("cancelled")
                raise
            return "waited"

        @server.tool()
        async def grow(ctx: Context[Any, Any]) -> str:
            def late() -> str:
                return "late it is"

            server.add_tool(late, name="late")
            await ctx.notify_tools_changed()
            return "grown"

    def app(self) -> Any:
        inner = self.server.streamable_http_app()

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = {key.decode(): value.decode() for key, value in scope["headers"]}
                self.headers.append(headers)
                if self.token and headers.get("authorization") != f"Bearer {self.token}":
                    await Response("who are you?", 401)(scope, receive, send)
                    return
            await inner(scope, receive, send)

        return guarded


class Older:
    """Protocol 2025-06-18 with sessions, which are forgotten when it starts again. `refuse`: answers to the next calls, before the tool."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.refuse: list[Response] = []
        self.calls = 0
        self.app = Starlette(routes=[Route("/mcp", self.post, methods=["POST"])])

    async def post(self, request: Request) -> Response:
        message = json.loads(await request.body())
        method, number = message["method"], message.get("id")
        if method == "initialize":
            session = f"s{len(self.sessions)}"
            self.sessions.add(session)
            info = {"name": "older", "version": "1"}
            told = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
            return JSONResponse({"jsonrpc": "2.0", "id": number, "result": told}, headers={"mcp-session-id": session})
        if method == "server/discover":
            return JSONResponse({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "Method not found"}}, 404)
        if request.headers.get("mcp-session-id") not in self.sessions:
            return Response("no such session", 404)
        if number is None:
            return Response(status_code=202)
        if method == "tools/list":
            return self.answer(number, {"tools": [{"name": "hello", "inputSchema": {"type": "object"}}]})
        self.calls += 1
        if self.refuse:
            return self.refuse.pop(0)
        return self.answer(number, {"content": [{"type": "text", "text": f"Hello, {message['params']['arguments']['name']}!"}]})

    def answer(self, number: Any, result: dict[str, Any]) -> Response:
        return JSONResponse({"jsonrpc": "2.0", "id": number, "result": result})
