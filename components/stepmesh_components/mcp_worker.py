"""The tools of an MCP server as components: `/fs/hello` calls the tool `hello` of the server that is plugin `fs`.

Invariant: a task is never lost to a server that is starting: a path that is not known yet waits for the server's word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from mcp import Tool

from stepmesh import Context, InvalidInput, Worker
from stepmesh.component import Component
from stepmesh_components.mcp_call import call_tool
from stepmesh_components.mcp_link import Link
from stepmesh_components.mcp_server import McpServer


class McpWorker(Worker):
    """A worker of the server's pool."""

    def __init__(self, server: McpServer, *, namespace: str = "default", concurrency: int = 64) -> None:
        super().__init__(server.pool, namespace=namespace, concurrency=concurrency)
        self.server = server
        self._link: Link | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The server is started with the worker and ends with it."""
        link = self._link = Link(self.server, self._offer)
        keeper = asyncio.create_task(link.keep(), name=f"stepmesh mcp {self.server.name}")
        keeper.add_done_callback(self._keeper_ended)
        try:
            yield
        finally:
            link.stop()
            await keeper

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if keeper.cancelled() or keeper.exception() is not None:
            self.stop()  # the run ends then, with that error

    def get(self, path: str) -> Component | None:
        """The tool at `path`, or a component that waits for what the server says of it."""
        return super().get(path) or self._component(path, "", None, None)

    def _offer(self) -> None:
        """Offer what the server told."""
        assert self._link is not None
        self.replace([self._of(tool) for tool in self._link.tools.values()])
        self.announce()

    def _of(self, tool: Tool) -> Component:
        returned = None if tool.output_schema is None else msgspec.json.encode(tool.output_schema)
        return self._component(f"/{tool.name}", tool.description or tool.title or "", msgspec.json.encode(tool.input_schema), returned)

    def _component(self, path: str, description: str, taken: bytes | None, given: bytes | None) -> Component:
        name = path.removeprefix("/")
        return Component(path, name, description, True, None, _arguments, self._calling(name), taken, given)

    def _calling(self, tool: str) -> Callable[[Any, Context], Coroutine[Any, Any, Any]]:
        async def call(arguments: dict[str, Any] | None, context: Context) -> Any:
            assert self._link is not None
            return await call_tool(self._link, tool, arguments, context)

        return call


def _arguments(data: bytes) -> dict[str, Any] | None:
    value = msgspec.json.decode(data)
    if value is not None and not isinstance(value, dict):
        raise InvalidInput("the input of an MCP tool is an object, with one member for each argument", path="$")
    return value
