"""What autoscalers read: pools as JSON numbers and as Prometheus has them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.gateway.door import Door
from tests.unit.gateway.web import Web, error, web

FLOW = {"name": "waits", "steps": [{"id": "a", "component": "/nobody/x", "input": {"$input": "$"}}], "output": {"$step": "a"}}
SAMPLE = re.compile(r'(stepmesh_pool_[a-z_]+)\{namespace="default",pool="([A-Za-z0-9_-]+)"\} ([0-9.e+-]+)')


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def waiting(api: Web, tasks: int) -> dict[str, Any]:
    """The pool `nobody`, once so many tasks wait in it."""
    async with asyncio.timeout(20):
        while (found := await api("GET", "/pools/nobody"))["queued"] != tasks:
            await asyncio.sleep(0.01)
    return dict(found)


async def test_a_pool_is_numbers_to_scale_by(api: Web) -> None:
    idle = {"pool": "nobody", "wanted": 0, "queued": 0, "leased": 0, "oldestSeconds": 0, "workers": 0, "capacity": 0}
    assert await api("GET", "/pools/nobody") == idle
    await api.submit(FLOW, *range(7), maxConcurrency=0)
    found = await waiting(api, 7)
    assert found.pop("oldestSeconds") >= 0
    assert found == {"pool": "nobody", "wanted": 7, "queued": 7, "leased": 0, "workers": 0, "capacity": 0}


async def test_workers_and_their_capacity_are_told(api: Web) -> None:
    async with asyncio.timeout(20):
        while (found := await api("GET", "/pools/py"))["workers"] != 1:
            await asyncio.sleep(0.01)
    assert found["capacity"] > 0


async def test_a_name_that_no_pool_has_is_refused(api: Web) -> None:
    error(await api.http.get("/api/v1/pools/a.b"), 400, "SM-3004")


async def test_prometheus_reads_what_json_tells(api: Web) -> None:
    await api.submit(FLOW, *range(3), maxConcurrency=0)
    await waiting(api, 3)
    answer = await api.http.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = answer.text.splitlines()
    samples = {(found[1], found[2]): float(found[3]) for line in lines if not line.startswith("#") and (found := SAMPLE.fullmatch(line))}
    assert len(samples) == sum(not line.startswith("#") for line in lines)
    assert {samples[f"stepmesh_pool_{name}", "nobody"] for name in ("wanted", "queued")} == {3}
    told = {pool["pool"]: pool["wanted"] for pool in (await api("GET", "/pools"))["pools"]}
    assert {pool: wanted for (name, pool), wanted in samples.items() if name == "stepmesh_pool_wanted"} == told
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {name for name, _ in samples}
