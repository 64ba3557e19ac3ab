"""`stepmesh mcp` from a deployment to its end: flows are stored, become tools, and are served until stdin ends or a signal comes.

The `mcp` package is imported when all that can be wrong with the call is known to be right.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from stepmesh.client import Client
from stepmesh_broker.protocol.api import FlowData, GetFlow
from stepmesh_broker.protocol.ids import FlowId
from stepmesh_cli import exits
from stepmesh_cli.inputs import from_environment
from stepmesh_cli.reporting import say
from stepmesh_cli.standing import StopSignals
from stepmesh_cli.tables import print_json
from stepmesh_cli.tools.catalogue import FlowTool, tool_of
from stepmesh_orchestrator.core.flow.compile import compile_stored
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow


@dataclass(frozen=True, slots=True)
class GivenFlow:
    """A flow of a file. `fallback`: the tool's name when the flow has none."""

    fallback: str
    document: dict[str, Any]
    variables: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Offer:
    """Flows of files and ids of stored flows; `variables` for those that declare them."""

    files: Sequence[GivenFlow]
    ids: Sequence[str]
    variables: dict[str, Any]


class Address(NamedTuple):
    """Where HTTP is served."""

    host: str
    port: int


class Opened(NamedTuple):
    """A client of the deployment. `guard`: runs work to its end, unless the deployment fails first."""

    client: Client
    guard: Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


async def stand(offer: Offer, where: Address | None, opening: AbstractAsyncContextManager[Opened], hurry: Callable[[], None]) -> int:
    """Serve on stdin and stdout, or at `where`. Returns the exit code. Raises `StepmeshError` of what cannot be served."""
    signals = StopSignals(hurry)
    try:
        async with signals, opening as (client, guard):
            tools = await _tools(client, offer)
            await guard(_until(signals, _serve(client, tools, where)))
    except asyncio.CancelledError:
        if not signals.impatient:
            raise
        return exits.TERMINATED
    return exits.OK


async def _until(signals: StopSignals, work: Coroutine[Any, Any, None]) -> None:
    """Whichever of the two ends first ends both."""
    tasks = (asyncio.create_task(work), asyncio.create_task(signals.first()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if not tasks[0].cancelled():
        tasks[0].result()


async def _tools(client: Client, offer: Offer) -> dict[str, FlowTool]:
    tools: dict[str, FlowTool] = {}
    for one in offer.files:
        tool = tool_of(await client.store_flow(one.document), one.document, one.fallback, tools, one.variables)
        tools[tool.name] = tool
    for flow in offer.ids:
        found = await client.requests.ask(GetFlow(FlowId(flow)), FlowData)
        variables = variables_of(compile_stored(found.document), offer.variables)
        tool = tool_of(found.flow, msgspec.json.decode(found.document), f"flow_{flow[:8]}", tools, variables)
        tools[tool.name] = tool
    return tools


def variables_of(flow: CompiledFlow, given: dict[str, Any]) -> dict[str, Any] | None:
    """Of what was given, and of the environment, what the flow declares. Raises `BadInput`."""
    declared = {name: value for name, value in given.items() if name in flow.variables}
    return from_environment(flow.variables, declared or None, os.environ)


async def _serve(client: Client, tools: dict[str, FlowTool], where: Address | None) -> None:
    from stepmesh_cli.tools.serving import PATH, serve_http, serve_stdio, server_of  # late: the slowest import of all

    server = server_of(client, tools)
    if where is None:
        say(f"serving {len(tools)} flows as MCP tools on stdin and stdout: {', '.join(tools)}")
        await serve_stdio(server)
        return

    def ready(port: int) -> None:
        url = f"http://{f'[{where.host}]' if ':' in where.host else where.host}:{port}{PATH}"
        print_json({"port": port, "url": url})
        say(f"serving {len(tools)} flows as MCP tools at {url}: {', '.join(tools)}")

    await serve_http(server, where.host, where.port, ready)
