"""Updates and streams of durable functions over HTTP: replies, refusals as problems, streams that are taken up again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.gateway.door import opened
from tests.unit.gateway.web import RUN, Web, error, web

from stepmesh import Client, Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App

TILL = {"name": "till", "steps": [{"id": "till", "component": "/till/till"}], "output": {"$step": "till"}}


def till() -> Worker:
    app = App("till")

    async def till() -> int:
        paid: list[int] = []
        wf.set("open", {"since": 1})
        wf.tags.add("vip", "gold")

        @wf.update
        async def pay(coins: int) -> int:
            if coins < 0:
                raise ValueError(f"{coins} is no payment")
            paid.append(coins)
            await wf.stream("paid").write({"coins": coins})
            await wf.stream("paid").write("thanks\nagain")
            return sum(paid)

        @wf.update
        async def later() -> None:
            await wf.wait_for_event("later")

        @wf.query
        def above(least: int) -> list[int]:
            return [coins for coins in paid if coins > least]

        @wf.query
        def state() -> list[int]:
            return paid

        await wf.wait_for_event("closed")
        return sum(paid)

    app.workflow(till)
    return app.worker()


@pytest.fixture
async def api() -> AsyncIterator[Web]:
    worker = till()
    async with opened() as door, web(door) as one:
        running = asyncio.create_task(worker.run(await door.deployment.connect()))
        yield one
        worker.stop()
        await running


async def values(api: Web, run: str, status: int = 200, **options: str) -> list[tuple[str, object]]:
    """Ids and data, to the end."""
    answer = await api.http.get(f"/v1/runs/{run}/streams/paid", timeout=20, **options)
    assert answer.status_code == status, answer.text
    frames = [dict(line.split(": ", 1) for line in frame.splitlines() if not line.startswith(":")) for frame in answer.text.split("\n\n")]
    return [(frame["id"], json.loads(frame["data"])) for frame in frames if frame.get("event") in ("value", "end")]


async def test_updates_are_replied_to_and_a_stream_is_told_once(api: Web) -> None:
    run = str((await api.submit(TILL, None))["summary"]["runId"])
    first = await api.http.post(f"/v1/runs/{run}/updates/pay?id=u1", content=b"5")
    assert (first.status_code, first.json()) == (200, {"id": "u1", "value": 5})
    again = await api.http.post(f"/v1/runs/{run}/updates/pay", content=b"5", headers={"Idempotency-Key": "u1"})
    assert again.json() == {"id": "u1", "value": 5}
    assert (await api.http.post(f"/v1/runs/{run}/updates/pay?item=0&step=till", content=b"7")).json()["value"] == 12
    assert "-1 is no payment" in error(await api.http.post(f"/v1/runs/{run}/updates/pay", content=b"-1"), 422, "SM-1076")["detail"]
    error(await api.http.post(f"/v1/runs/{run}/updates/pay", content=b"{"), 400, "SM-5284")
    error(await api.http.post(f"/v1/runs/{RUN}/updates/pay", content=b"1"), 404, "SM-5003")

    (step,) = (await api("GET", f"/runs/{run}"))["steps"]
    assert (step["attributes"], step["tags"]) == ({"open": {"since": 1}}, {"vip": "gold"})
    assert (await api.http.get(f"/v1/runs/{run}/queries/state")).json() == {"value": [5, 7]}
    assert (await api.http.post(f"/v1/runs/{run}/queries/above?item=0", content=b"6")).json() == {"value": [7]}
    error(await api.http.get(f"/v1/runs/{run}/queries/below"), 404, "SM-1072")

    await api.http.post(f"/v1/runs/{run}/signals/closed", content=b"null")
    await api("GET", f"/runs/{run}?wait=true")
    error(await api.http.post(f"/v1/runs/{run}/updates/pay", content=b"1"), 409, "SM-5280")
    told = await values(api, run)
    assert [data for _, data in told] == [
        {"value": {"coins": 5}, "item": 0}, {"value": "thanks\nagain", "item": 0},
        {"value": {"coins": 7}, "item": 0}, {"value": "thanks\nagain", "item": 0}, {},
    ]  # fmt: skip
    for place, (id, _) in enumerate(told[:-1]):
        assert await values(api, run, headers={"Last-Event-ID": id}) == told[place + 1 :]
        assert await values(api, run, params={"after": id}) == told[place + 1 :]
    assert await values(api, run, 204, headers={"Last-Event-ID": told[-1][0]}) == []
    error(await api.http.get(f"/v1/runs/{run}/streams/paid?after=x"), 400, "SM-1077")


async def test_a_gateway_that_stops_says_by_which_id_an_update_is_asked_for_again() -> None:
    worker = till()
    async with opened() as door, web(door) as api:
        running = asyncio.create_task(worker.run(await door.deployment.connect()))
        run = (await api.submit(TILL, None))["summary"]["runId"]
        asking = asyncio.create_task(api.http.post(f"/v1/runs/{run}/updates/later"))
        client = Client(await door.deployment.connect())
        while not asking.done() and not (
            asked := [record["id"] for record in await records(client, run) if record["record"] == "update_asked"]
        ):
            await asyncio.sleep(0.01)
        door.gateway.operations.close()
        found = error(await asking, 503, "SM-7007")
        assert asked[0] in found["hint"]
        worker.stop()
        await running


async def records(client: Client, run: str) -> list[dict[str, Any]]:
    grown = [event async for event in client.events(run, follow=False) if event.kind == "function_advanced"]
    return [record for event in grown for record in json.loads(event.data)["records"]]
