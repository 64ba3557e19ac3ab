"""`/v1/runs/…`: pausing, waking, retrying, forking, and many runs at once, as their clients use it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.gateway.door import Door, one_step
from tests.unit.gateway.web import RUN, Web, problem, web

GATE = one_step("/py/gate")
ECHO = one_step("/py/echo")
NAP = one_step("/builtin/sleep")
FLAKY = {
    "name": "flaky",
    "steps": [
        {"id": "paid", "component": "/py/gate", "input": {"$input": "name"}},
        {"id": "bad", "component": "/py/boom", "input": {"$step": "paid"}},
    ],
    "output": [{"$step": "paid"}, {"$step": "bad"}],
}
MENDED = {"bad": {"value": {"component": "/py/echo"}}}


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def told(api: Web, run: str, verb: str, body: Any = None, **headers: str) -> Any:
    """The answer to a POST that must go well."""
    answer = await api.http.post(
        f"/v1/runs/{run}/{verb}", json=body or {}, headers={key.replace("_", "-"): headers[key] for key in headers}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def lines(api: Web, body: Any) -> list[Any]:
    """Those of POST /v1/runs/bulk."""
    answer = await api.http.post("/v1/runs/bulk", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def status(api: Web, run: str) -> int:
    return int((await api("GET", f"/runs/{run}"))["summary"]["status"])


async def over(api: Web, run: str) -> Any:
    return (await api("GET", f"/runs/{run}", params={"wait": True, "timeoutSecs": 20}))["summary"]


async def test_a_pause_is_seen_on_both_surfaces(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x", "y", maxConcurrency=1))["summary"]["runId"]
    await door.workshop.begun.get()

    assert await told(api, run, "pause", {"reason": "maintenance"}) == {"id": run, "status": "paused", "changed": True}
    assert await told(api, run, "pause") == {"id": run, "status": "paused", "changed": False}

    summary = (await api("GET", f"/runs/{run}"))["summary"]
    assert (summary["status"], summary["items"]["running"]) == (5, 2)
    assert [one["runId"] for one in (await api("GET", "/runs", params={"status": "paused"}))["runs"]] == [run]
    assert [one["runId"] for one in (await api("GET", "/runs", params={"status": 5}))["runs"]] == [run]
    assert (await api("GET", f"/runs/{run}", params={"wait": True, "timeoutSecs": 0}))["summary"]["status"] == 5
    assert await told(api, run, "resume") == {"id": run, "status": "running", "changed": True}
    door.workshop.let("x")
    door.workshop.let("y")
    assert (await over(api, run))["status"] == 2
    refused = problem(await api.http.post(f"/v1/runs/{run}/resume"), 409, "SM-5221")
    assert refused["title"] == "Conflict"
    assert refused["run_id"] == run
    assert refused["hint"]


async def test_cancel_answers_with_what_it_changed(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    await door.workshop.begun.get()
    assert await told(api, run, "cancel", {"reason": "enough"}) == {"id": run, "status": "cancelled", "changed": True}
    assert (await told(api, run, "cancel"))["changed"] is False
    door.workshop.let("x")


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [("2", 409, "SM-1096"), ("v" * 200, 409, "SM-1096"), ("v" * 201, 400, "SM-7102"), ("", 400, "SM-7102"), (" ", 400, "SM-1098")],
    ids=["2", "long", "too long", "empty", "blank"],
)
async def test_a_run_without_functions_goes_on_with_no_version(api: Web, version: str, status: int, code: str) -> None:
    run = (await api.submit(NAP, {"duration": "1h"}))["summary"]["runId"]
    assert await told(api, run, "resume", {"version": None}) == {"id": run, "status": "running", "changed": False}
    assert await told(api, run, "pause", {}) == {"id": run, "status": "paused", "changed": True}
    problem(await api.http.post(f"/v1/runs/{run}/resume", json={"version": version}), status, code)
    assert (await api("GET", f"/runs/{run}"))["summary"]["status"] == 5, "what is refused changes nothing"


async def test_a_version_is_for_those_that_go_on(api: Web) -> None:
    run = (await api.submit(NAP, {"duration": "1h"}))["summary"]["runId"]
    body = {"ids": [run], "version": "2"}
    told_lines = await lines(api, {"action": "resume", **body})
    assert [(one.get("done"), one.get("code")) for one in told_lines] == [(False, "SM-1096"), (None, None)]
    assert (
        "cancel takes no version"
        in problem(await api.http.post("/v1/runs/bulk", json={"action": "cancel", **body}), 400, "SM-7102")["detail"]
    )


async def test_a_sleep_is_ended(api: Web) -> None:
    run = (await api.submit(NAP, {"duration": "1h"}, {"duration": "2h"}))["summary"]["runId"]
    assert await told(api, run, "wake", {"item": 1}) == {"id": run, "status": "running", "changed": True, "woken": ["a"]}
    assert (await told(api, run, "wake"))["woken"] == ["a"]
    assert (await over(api, run))["status"] == 2
    problem(await api.http.post(f"/v1/runs/{run}/wake"), 409, "SM-5229")


async def test_a_fork_does_not_call_again_what_succeeded(door: Door, api: Web) -> None:
    for name in ("x", "y", "z"):
        door.workshop.let(name)
    run = (await api.run(FLAKY, {"name": "x"}, {"name": "y"}))["summary"]["runId"]
    assert await status(api, run) == 3
    calls = {door.workshop.begun.get_nowait() for _ in range(2)}

    retried = await told(api, run, "retry", {"items": [1]}, Idempotency_Key="k")
    assert (retried["items"], retried["reused"], retried["existing"], retried["source"]) == ([1], 1, False, run)
    assert (await told(api, run, "retry", {"items": [1]}, Idempotency_Key="k"))["id"] == retried["id"]
    forked = await told(api, run, "fork", {"overrides": MENDED, "tags": {"why": "mended"}})
    assert (await over(api, forked["id"]))["status"] == 2
    assert calls == {"x", "y"}
    assert door.workshop.begun.empty(), "nothing was called again"

    changed = await told(api, run, "fork", {"overrides": MENDED, "input": [{"name": "x"}, {"name": "z"}]})
    assert (await over(api, changed["id"]))["status"] == 2
    assert (changed["reused"], door.workshop.begun.get_nowait(), door.workshop.begun.empty()) == (1, "z", True)
    results = (await api("GET", f"/runs/{changed['id']}/items"))["results"]
    assert [one["output"] for one in results] == [["x", "x"], ["z", "z"]]


async def test_what_a_retry_refuses(api: Web) -> None:
    done = (await api.run(ECHO, 1))["summary"]["runId"]
    problem(await api.http.post(f"/v1/runs/{done}/retry"), 409, "SM-5224")
    problem(await api.http.post(f"/v1/runs/{done}/fork", json={"from_step": "zz"}), 400, "SM-5226")
    problem(await api.http.post(f"/v1/runs/{done}/fork", json={"input": []}), 400, "SM-5227")
    problem(await api.http.post(f"/v1/runs/{done}/fork", json={"flow_id": "no"}), 400, "SM-7002")
    problem(await api.http.post(f"/v1/runs/{done}/fork", headers={"Idempotency-Key": ""}), 400, "SM-7103")
    problem(await api.http.post(f"/v1/runs/{done}/fork", headers={"Idempotency-Key": "k" * 201}), 400, "SM-7103")
    assert (await api.http.post(f"/v1/runs/{done}/fork", headers={"Idempotency-Key": "k" * 200})).status_code == 200


async def test_many_runs_one_line_each(door: Door, api: Web) -> None:
    runs = [(await api.submit(GATE, "x"))["summary"]["runId"] for _ in range(3)]
    assert await lines(api, {"action": "pause", "ids": [*runs, RUN]}) == [
        *({"run_id": run, "done": True} for run in runs),
        {"run_id": RUN, "done": False, "code": "SM-5003", "detail": f"there is no run {RUN}"},
        {"matched": 4, "refused": 1},
    ]
    paused = await lines(api, {"action": "cancel", "filter": {"status": "paused", "flow_name": "one"}})
    assert {one["run_id"] for one in paused[:-1]} == set(runs)
    assert paused[-1] == {"matched": 3, "refused": 0}
    assert await lines(api, {"action": "resume", "filter": {"status": "paused"}}) == [{"matched": 0, "refused": 0}]
    again = await lines(api, {"action": "retry", "ids": runs[:1]})
    assert again[0]["new_run_id"]
    await lines(api, {"action": "cancel", "ids": [again[0]["new_run_id"]]})
    door.workshop.let("x")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {}},
        {"ids": []},
        {"filter": {"tags": {}}},
        {"ids": [RUN], "filter": {"status": "failed"}},
        {"ids": [RUN], "filter": {}},
    ],
)
async def test_many_runs_are_named_or_found_by_a_filter_that_says_something(api: Web, body: Any) -> None:
    assert problem(await api.http.post("/v1/runs/bulk", json={"action": "cancel", **body}), 422, "SM-5230")["title"]


async def test_bodies_are_checked(api: Web) -> None:
    problem(await api.http.post("/v1/runs/bulk", json={"ids": [RUN]}), 400, "SM-7102")
    problem(await api.http.post("/v1/runs/bulk", json={"action": "explode", "ids": [RUN]}), 400, "SM-7102")
    problem(await api.http.post("/v1/runs/bulk", json={"action": "cancel", "ids": ["x"]}), 400, "SM-7002")
    problem(await api.http.post(f"/v1/runs/{RUN}/pause", json={"reason": "x" * 1_001}), 400, "SM-7102")
    problem(await api.http.post(f"/v1/runs/{RUN}/pause", json={"reason": "x" * 1_000}), 404, "SM-5003")
    problem(await api.http.post("/v1/nothing"), 404, "SM-7100")


async def test_without_an_orchestrator(door: Door, api: Web) -> None:
    await door.deployment.node.stop()
    answer = await api.http.post(f"/v1/runs/{RUN}/pause")
    problem(answer, 503, answer.json()["code"])
    assert answer.headers["retry-after"] == "1"
