"""A deployment in memory whose configuration has MCP servers, and short ways to run a step on it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stepmesh import Client, RunFailed
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_orchestrator.config import parse_config

BARE = Path(__file__).parent / "bare_server.py"
QUICK = {"transportMaxRetries": 3, "backoff": {"type": "constant", "initial": "50ms", "jitter": 0}}


def bare(*flags: str, **more: Any) -> dict[str, Any]:
    """A plugin with the bare server."""
    return {"type": "mcp", "command": sys.executable, "args": [str(BARE), *flags], **more}


@asynccontextmanager
async def deployed(
    plugins: Mapping[str, Any], folder: Path | None = None, environment: Mapping[str, str] | None = None, **more: Any
) -> AsyncGenerator[Client]:
    """A client of a deployment with these plugins; `folder`: its working directory."""
    text = json.dumps({"plugins": {"builtin": {"type": "builtin"}, **plugins}, "retry": QUICK, **more})
    config, _ = parse_config(text.encode(), environment or {})
    config = config.model_copy(update={"working_directory": None if folder is None else str(folder)})
    async with Deployment(DeploymentSettings(config=config)) as deployment:
        yield await deployment.client()


def step(component: str, input: Any = None, **more: Any) -> dict[str, Any]:
    """A flow of one step whose result is the output."""
    return {"steps": [{"id": "s", "component": component, "input": {"$literal": input}, **more}], "output": {"$step": "s"}}


async def call(client: Client, component: str, input: Any = None, **more: Any) -> Any:
    """The output of one step. Raises `RunFailed`."""
    return await client.run(step(component, input, **more), None, timeout=30)


async def failure(client: Client, component: str, input: Any = None, **more: Any) -> RunFailed:
    """How one step fails."""
    try:
        found = await call(client, component, input, **more)
    except RunFailed as problem:
        return problem
    raise AssertionError(f"it gave {found!r}")


async def until(what: str, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Poll a condition."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {timeout_s:g} s") from None


async def offered(client: Client, pool: str) -> dict[str, Any]:
    """What `stepmesh components` knows of a pool: path → component."""
    return {entry.path: entry.component for entry in await client.components() if entry.pool == pool}
