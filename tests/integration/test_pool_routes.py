"""Which pool a task goes to, end to end: by its component, by what its input holds, by its step, and by an override of one run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stepmesh import Client, Worker
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_orchestrator.config import parse_config

CONFIG = """
plugins:
  cpu: {type: worker, pool: cpu}
  gpu: {type: worker, pool: gpu}
routes:
  /embed: [{plugin: gpu}]
  /model:
    - {plugin: gpu, conditions: [{path: $.size, value: large}, {path: $.exact, value: true}]}
    - {plugin: gpu, queueName: gpu-small, conditions: [{path: $.size, value: large}]}
    - {plugin: cpu}
"""


def serving(pool: str) -> Worker:
    """Components that tell their pool."""
    worker = Worker(pool)

    @worker.component
    async def run(value: Any) -> str:
        return pool

    return worker


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    config, _ = parse_config(CONFIG, {})
    workers = tuple(serving(pool) for pool in ("cpu", "gpu", "gpu-small", "other"))
    async with Deployment(DeploymentSettings(config=config, workers=workers)) as deployment:
        yield await deployment.client()


def flow(component: str, **fields: Any) -> dict[str, Any]:
    step = {
        "id": "s",
        "component": component,
        "input": {"value": {"$input": "$"}, "size": {"$input": "$.size"}, "exact": {"$input": "$.exact"}},
    }
    return {"name": "route", "steps": [{**step, **fields}], "output": {"$step": "s"}}


@pytest.mark.parametrize(
    ("component", "size", "exact", "pool"),
    [
        ("/embed/run", "small", False, "gpu"),
        ("/model/run", "small", True, "cpu"),
        ("/model/run", "large", True, "gpu"),
        ("/model/run", "large", False, "gpu-small"),
    ],
)
async def test_component_and_input_choose_the_pool(client: Client, component: str, size: str, exact: bool, pool: str) -> None:
    assert await client.run(flow(component), {"size": size, "exact": exact}, timeout=30) == pool


@pytest.mark.parametrize("size", ["small", "large"])
async def test_the_pool_of_a_step_goes_before_its_route(client: Client, size: str) -> None:
    assert await client.run(flow("/model/run", pool="other"), {"size": size, "exact": False}, timeout=30) == "other"


async def test_one_run_may_choose_another_pool(client: Client) -> None:
    handle = await client.submit(flow("/model/run"), [{"size": "small", "exact": False}], overrides={"s": {"value": {"pool": "other"}}})
    assert await handle.result(30) == "other"


async def test_pools_of_routes_are_known_before_they_are_used(client: Client) -> None:
    await client.run(flow("/embed/run"), {"size": "small", "exact": False}, timeout=30)
    assert {"cpu", "gpu", "gpu-small", "other"} <= {pool.pool for pool in await client.pools()}
