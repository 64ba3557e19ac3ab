"""The two ways to an MCP server, as transports of the `mcp` package: a process started here, or streamable HTTP.

Both tell when the connection is over, which the package's client keeps to itself, and keep a failure to what it concerns: one HTTP
request that gets no answer fails its own call, not all that are under way.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any

import anyio
import httpx2
from mcp import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, INTERNAL_ERROR

from stepmesh_components.mcp_server import McpServer

LAST_LINES = 20
"""Lines of a server's stderr that are kept for the report of a crash."""
MAX_LINE = 64 * 1024
MAX_EVENT = 32 * 1024 * 1024
"""Bytes of one answer over HTTP."""
Streams = tuple[Any, Any]
"""Read and write stream, as `mcp.client.Transport` has them."""
_CONNECT_S = 30.0
_LISTEN_S = 1.0
_AWAY = frozenset({429, 502, 503, 504})
_TOLD = 500


logging.getLogger("mcp.client.stdio").addFilter(lambda record: "Failed to parse" not in record.msg)  # mcp_link.py tells it in a line


class Ending:
    """The end of one connection. `over`: nothing more comes from the server. `told`: its last words are all in `lines`."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.told = anyio.Event()
        self.lines: deque[str] = deque(maxlen=LAST_LINES)


def transport(server: McpServer, ending: Ending) -> AbstractAsyncContextManager[Streams]:
    """A connection to the server, opened on entry. Raises `OSError` for a command that cannot be started."""
    return _over_http(server, ending) if server.url is not None else _over_stdio(server, ending)


@asynccontextmanager
async def _over_stdio(server: McpServer, ending: Ending) -> AsyncGenerator[Streams]:
    parameters = StdioServerParameters(command=server.command or "", args=list(server.args), env=dict(server.env), cwd=server.folder)
    reading, writing = os.pipe()
    listener = asyncio.create_task(_listen(reading, ending), name=f"stepmesh mcp stderr {server.name}")
    try:
        with os.fdopen(writing, "w") as errors:
            async with stdio_client(parameters, errlog=errors) as (incoming, outgoing):
                errors.close()  # only the server holds it now, so that it ends when the server does
                yield _Watched(incoming, ending), outgoing
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.wait((listener,), timeout=_LISTEN_S)  # a child that outlives the server may hold it open
            listener.cancel()
            await asyncio.wait((listener,))
            ending.told.set()


async def _listen(descriptor: int, ending: Ending) -> None:
    """Keep the last lines of a pipe until its writers are gone."""
    reader = asyncio.StreamReader(limit=MAX_LINE)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than MAX_LINE: the reader dropped it
                continue
            if not line:
                return
            ending.lines.append(line.decode(errors="replace").rstrip())
    finally:
        pipe.close()


@asynccontextmanager
async def _over_http(server: McpServer, ending: Ending) -> AsyncGenerator[Streams]:
    ending.told.set()  # nothing is heard of its stderr
    timeout = httpx2.Timeout(_CONNECT_S, read=None)  # a tool may work for long; the step's own limit ends it
    async with (
        _Patient(headers=dict(server.headers), timeout=timeout, limits=httpx2.Limits(max_connections=None)) as client,
        streamable_http_client(server.url or "", http_client=client, max_sse_event_size=MAX_EVENT) as (incoming, outgoing),
    ):
        yield _Watched(incoming, ending), outgoing


class _Watched:
    """A read stream that tells of its end. `last_context`: see `mcp.shared._context_streams`."""

    def __init__(self, stream: Any, ending: Ending) -> None:
        self._stream = stream
        self._ending = ending

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ending.over.set()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ending.over.set()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        await self._stream.__aexit__(kind, problem, trace)


class _Patient(httpx2.AsyncClient):
    """What fails a request becomes its answer, a JSON-RPC error: raised here it would end the connection with all its calls."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as problem:
            what = f"{request.url.host} did not answer: {type(problem).__name__} {problem}".rstrip()
            return _refusal(request, 503, CONNECTION_CLOSED, what)
        if request.method != "POST" or response.status_code < 400 or response.status_code == 404:  # 404 has a meaning in the protocol
            return response
        try:
            text = (await response.aread()).decode(errors="replace")
        finally:
            await response.aclose()
        if '"jsonrpc"' in text:
            return httpx2.Response(response.status_code, headers={"content-type": "application/json"}, text=text, request=request)
        code = CONNECTION_CLOSED if response.status_code in _AWAY else INTERNAL_ERROR
        said = f"the server answered {response.status_code} {response.reason_phrase}: {text[:_TOLD]}".rstrip(": \n")
        return _refusal(request, response.status_code, code, said)


def _refusal(request: httpx2.Request, status: int, code: int, message: str) -> httpx2.Response:
    return httpx2.Response(status, json={"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}, request=request)
