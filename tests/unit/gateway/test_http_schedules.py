"""Schedules over HTTP: made, changed, listed in pages, run; errors are problem documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.unit.gateway.door import Door, one_step
from tests.unit.gateway.web import web


class Schedules:
    """Requests below `/v1/schedules`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def __call__(self, method: str, path: str = "", **options: Any) -> dict[str, Any]:
        """The body of an answer that is one."""
        answer = await self.http.request(method, f"/v1/schedules{path}", **options)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def refused(self, method: str, path: str, status: int, code: str, **options: Any) -> dict[str, Any]:
        """A problem document."""
        answer = await self.http.request(method, f"/v1/schedules{path}", **options)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        assert answer.json()["code"] == code
        return dict(answer.json())


@pytest.fixture
async def schedules(door: Door) -> AsyncIterator[Schedules]:
    async with web(door) as one:
        yield Schedules(one.http)


def daily(**more: Any) -> dict[str, Any]:
    return {"id": "daily", "flow": one_step(), "input": 21, "cron": "0 9 * * MON-FRI", "time_zone": "Europe/Berlin", **more}


async def test_one_is_made_looked_at_changed_and_deleted(schedules: Schedules) -> None:
    made = await schedules("POST", json=daily(tags={"team": "search"}, jitter="30s", until="2060-01-01T00:00:00+01:00"))
    assert (made["id"], made["status"], made["cron"], made["jitter"]) == ("daily", "active", "0 9 * * MON-FRI", 30.0)
    assert (made["until"], made["tags"], made["input"]) == ("2059-12-31T23:00:00.000Z", {"team": "search"}, 21)
    hours = {datetime.fromisoformat(due).astimezone(UTC).hour for due in made["next"]}
    assert (len(made["next"]), hours <= {7, 8}) == (5, True)
    assert await schedules("POST", json=daily(tags={"team": "search"}, jitter=30, until="2059-12-31T23:00:00Z")) == made
    assert await schedules("GET", "/daily") == made
    problem = await schedules.refused("POST", "", 409, "SM-5241", json=daily())
    assert "replace" in problem["hint"]
    changed = {name: value for name, value in daily(overlap="allow", flow=None, flow_id=made["flow_id"]).items() if name != "id"}
    assert (await schedules("PUT", "/daily", json=changed))["overlap"] == "allow"
    assert await schedules("DELETE", "/daily") == {"id": "daily"}
    await schedules.refused("GET", "/daily", 404, "SM-5240")
    await schedules.refused("DELETE", "/daily", 404, "SM-5240")


async def test_lists_have_pages(schedules: Schedules) -> None:
    for name in ("c", "a", "b"):
        await schedules("PUT", f"/{name}", json={"flow": one_step(), "every": 3600, "input": {"n": 1}})
    first = await schedules("GET", "?limit=2")
    assert ([one["id"] for one in first["schedules"]], first["cursor"]) == (["a", "b"], "b")
    assert "input" not in first["schedules"][0]
    last = await schedules("GET", f"?limit=2&cursor={first['cursor']}")
    assert ([one["id"] for one in last["schedules"]], last["cursor"]) == (["c"], None)


async def test_its_times_start_runs(schedules: Schedules) -> None:
    await schedules("POST", json={"id": "quick", "flow": one_step(), "input": 21, "every": "1s", "max_runs": 1})
    async with asyncio.timeout(20):
        while (found := await schedules("GET", "/quick"))["live"] or not found["fired"]:
            await asyncio.sleep(0.02)
    assert (found["status"], found["next"], found["fired"]) == ("finished", [], 1)
    run = (await schedules.http.get(f"/api/v1/runs/{found['last_run_id']}/items")).json()
    assert run["results"][0]["output"] == 42


async def test_it_is_paused_resumed_triggered_and_filled(schedules: Schedules) -> None:
    made = await schedules("POST", json=daily())
    assert (await schedules("POST", "/daily/pause"))["status"] == "paused"
    assert (await schedules("POST", "/daily/resume", json={}))["status"] == "active"
    (run,) = (await schedules("POST", "/daily/trigger"))["run_ids"]
    assert (await schedules.http.get(f"/api/v1/runs/{run}?wait=true")).json()["summary"]["status"] == 2
    keyed = [(await schedules("POST", "/daily/trigger", headers={"Idempotency-Key": key}))["run_ids"] for key in ("k", "k", "x" * 200)]
    assert (keyed[0] == keyed[1] != keyed[2], keyed[0] != [run]) == (True, True)
    await schedules.refused("POST", "/daily/trigger", 400, "SM-7103", headers={"Idempotency-Key": "x" * 201})
    first = datetime.fromisoformat(made["next"][0])
    period = {"start": first.isoformat(), "end": (first + timedelta(days=7)).isoformat(), "key": "k"}
    filled = (await schedules("POST", "/daily/backfill", json=period))["run_ids"]
    assert len(filled) == 6
    assert (await schedules("POST", "/daily/backfill", json=period))["run_ids"] == filled


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (daily(cron="61 * * * *"), 400, "SM-5250"),
        (daily(time_zone="Berlin"), 400, "SM-5251"),
        (daily(every="5m"), 400, "SM-5252"),
        (daily(every="soon"), 400, "SM-1070"),
        (daily(id="a b"), 400, "SM-7102"),
        (daily(until="2060-01-01T00:00:00"), 400, "SM-7102"),
        (daily(until="2001-01-01T00:00:00Z"), 400, "SM-5243"),
        (daily(flow=None), 400, "SM-7102"),
        (daily(flow={"steps": [{"id": "a"}]}), 400, "SM-7102"),
        (daily(flow=None, flow_id="0" * 64), 404, "SM-5004"),
        (daily(overlap="both"), 400, "SM-7102"),
        (daily(flow=one_step(inputSchema={"type": "object", "required": ["m"]})), 400, "SM-5001"),
    ],
)
async def test_what_cannot_be_is_a_problem(schedules: Schedules, body: dict[str, Any], status: int, code: str) -> None:
    problem = await schedules.refused("POST", "", status, code, json=body)
    assert problem["detail"]
    assert (await schedules("GET"))["schedules"] == []


async def test_an_empty_or_endless_backfill_is_a_problem(schedules: Schedules) -> None:
    await schedules("POST", json={"id": "often", "flow": one_step(), "input": {"n": 1}, "every": 60, "paused": True})
    for start, end in (("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"), ("2100-01-01T00:00:00Z", "2099-01-02T00:00:00Z")):
        await schedules.refused("POST", "/often/backfill", 400, "SM-5244", json={"start": start, "end": end, "key": "k"})
    await schedules.refused("POST", "/nobody/backfill", 404, "SM-5240", json={"start": start, "end": end, "key": "k"})
    await schedules.refused("POST", "/nobody/trigger", 404, "SM-5240")
