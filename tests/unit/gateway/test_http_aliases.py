"""Routes of small workflow libraries: start by path, look, follow."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.gateway.door import Door
from tests.unit.gateway.web import Web, error, web


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def test_a_workflow_is_started_by_its_path_once_per_key(api: Web) -> None:
    first = await api.http.post("/trigger/builtin/noop", json={"n": 1}, headers={"Idempotency-Key": "k"})
    again = await api.http.post("/trigger/builtin/noop", json={"n": 1}, headers={"Idempotency-Key": "k"})
    run = first.json()["run_id"]
    assert (first.json(), again.json()) == ({"run_id": run, "existing": False}, {"run_id": run, "existing": True})
    found = (await api.http.get(f"/runs/{run}?wait=true")).json()
    assert found["summary"]["flowName"] == "builtin/noop"
    assert [step["stepId"] for step in found["steps"]] == ["run"]


async def test_its_input_may_be_nothing_and_its_run_is_followed_to_the_end(api: Web) -> None:
    run = (await api.http.post("/trigger/builtin/noop")).json()["run_id"]
    told = (await api.http.get(f"/runs/{run}/stream?includeResults=true")).text
    assert "event: " in told
    assert told.rstrip().endswith("}")


async def test_what_is_no_run_is_refused(api: Web) -> None:
    error(await api.http.get("/runs/no-id"), 400, "SM-7002")
