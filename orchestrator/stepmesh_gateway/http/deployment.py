"""Routes that tell of the deployment: health and components."""

from __future__ import annotations

import platform

import msgspec

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_gateway.http import messages, views
from stepmesh_gateway.http.registry import Asked, NoQuery, Route, Scope


class ComponentsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`excludeSchemas`: names and descriptions only."""

    exclude_schemas: bool = False


async def health(asked: Asked[NoQuery, None]) -> messages.Health:
    """Healthy if an orchestrator stands behind this gateway."""
    found = await asked.operations.health()
    if found.status != "healthy":
        raise BrokerUnavailable("this gateway runs, and no orchestrator answers it", hint="start one, or look at the broker")
    build = messages.Build(
        git_version=found.version,
        dirty=False,
        rustc_version=f"{platform.python_implementation()} {platform.python_version()}",
        profile="release",
        features=[],
        target=found.target,
    )
    return messages.Health(status=found.status, timestamp=views.rfc3339(found.at_ms), build=build)


async def list_components(asked: Asked[ComponentsQuery, None]) -> messages.Components:
    """Waits for no worker."""
    found, queues = await asked.operations.components(), await asked.operations.queues()
    return views.components(found, queues, not asked.query.exclude_schemas)


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """`shared`: by several orchestrators. `limits`: by name, in the unit that the name says."""

    version: str
    namespace: str
    partitions: int
    durability: str
    journal: str
    shared: bool
    limits: dict[str, int]


async def get_deployment(asked: Asked[NoQuery, None]) -> DeploymentView:
    """As its orchestrators tell it."""
    info = await asked.operations.deployment()
    return DeploymentView(
        version=info.version,
        namespace=info.namespace,
        partitions=info.partitions,
        durability=info.durability,
        journal=info.journal,
        shared=info.shared,
        limits=info.limits,
    )


ROUTES = (
    Route(
        method="GET", path="/api/v1/health", scope=Scope.PUBLIC, summary="Does the gateway answer?", handler=health,
        answer=messages.Health,
    ),
    Route(method="GET", path="/health", scope=Scope.PUBLIC, summary="The same", handler=health, answer=messages.Health),
    Route(
        method="GET", path="/api/v1/components", scope=Scope.READ, summary="What flows may call", handler=list_components,
        query=ComponentsQuery, answer=messages.Components,
    ),
    Route(
        method="GET", path="/v1/deployment", scope=Scope.READ, summary="What the deployment is", handler=get_deployment,
        answer=DeploymentView,
    ),
)  # fmt: skip
