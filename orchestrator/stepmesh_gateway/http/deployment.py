"""Routes that tell of the deployment: health and components."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import msgspec

from stepmesh_gateway.http import messages, views
from stepmesh_gateway.http.registry import Asked, NoQuery, Route, Scope


class ComponentsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`excludeSchemas`: names and descriptions only."""

    exclude_schemas: bool = False


async def health(asked: Asked[NoQuery, None]) -> messages.Health:
    """Asks nobody: it says that this gateway takes calls."""
    build = messages.Build(
        git_version=f"stepmesh-{version('stepmesh')}",
        dirty=False,
        rustc_version=f"{platform.python_implementation()} {platform.python_version()}",
        profile="release",
        features=[],
        target=f"{platform.machine()}-{platform.system().lower()}",
    )
    return messages.Health(status="healthy", timestamp=views.rfc3339(time.time_ns() // 1_000_000), build=build)


async def components(asked: Asked[ComponentsQuery, None]) -> messages.Components:
    """Waits for no worker."""
    found, queues = await asked.operations.components(), await asked.operations.queues()
    return views.components(found, queues, not asked.query.exclude_schemas)


ROUTES = (
    Route(
        method="GET", path="/api/v1/health", scope=Scope.PUBLIC, summary="Does the gateway answer?", handler=health,
        answer=messages.Health,
    ),
    Route(method="GET", path="/health", scope=Scope.PUBLIC, summary="The same", handler=health, answer=messages.Health),
    Route(
        method="GET", path="/api/v1/components", scope=Scope.READ, summary="What flows may call", handler=components,
        query=ComponentsQuery, answer=messages.Components,
    ),
)  # fmt: skip
