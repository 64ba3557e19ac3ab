"""`/api/v1` as its clients use it: every route, over a whole deployment."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.gateway.door import Door, one_step, until
from tests.unit.gateway.web import RUN, Web, connected, web

BIG = 2**80 + 1
DOUBLE = one_step("/py/double")
ECHO = one_step("/py/echo")
GATE = one_step("/py/gate")
BOOM = one_step("/py/boom")


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def test_health(api: Web) -> None:
    found = await api("GET", "/health")
    assert found["status"] == "healthy"
    assert set(found["build"]) == {"gitVersion", "dirty", "rustcVersion", "profile", "features", "target"}
    assert (await api.http.get("/health")).json()["status"] == "healthy"


async def test_health_without_an_orchestrator(door: Door, api: Web) -> None:
    await door.deployment.node.stop()
    error = await api.refused("GET", "/health", 503, "SM-3001")
    assert error["status"] == "UNAVAILABLE"


async def test_a_run_from_its_flow_to_its_results(api: Web) -> None:
    created = await api.run(DOUBLE, 1, 2, 3)
    summary = created["summary"]
    assert summary["status"] == 2
    assert summary["items"] == {"total": 3, "completed": 3, "running": 0, "failed": 0, "cancelled": 0}
    assert (summary["flowName"], summary["rootRunId"]) == ("one", summary["runId"])
    assert summary["createdAt"].endswith("Z")
    assert summary["completedAt"] >= summary["createdAt"]
    assert summary["finishedAtSeqno"] > summary["createdAtSeqno"] > 0
    assert [(one["itemIndex"], one["status"], one["output"]) for one in created["results"]] == [(0, 2, 2), (1, 2, 4), (2, 2, 6)]

    run = summary["runId"]
    found = await api("GET", f"/runs/{run}")
    assert found["summary"]["runId"] == run
    assert [(one["itemIndex"], one["stepId"], one["status"], one["output"]) for one in found["steps"]] == [
        (index, "a", 2, 2 * (index + 1)) for index in range(3)
    ]
    assert found["steps"][0]["component"] == "/py/double"
    assert found["steps"][0]["journalSeqno"] > 0
    assert await api("GET", f"/runs/{run}/items") == {"results": created["results"]}
    assert await api("GET", f"/runs/{run}/steps", params={"itemIndex": 1}) == {"steps": found["steps"][1:2]}
    assert await api("GET", f"/runs/{run}/steps/a", params={"itemIndex": 2}) == {"step": found["steps"][2]}
    assert await api("GET", f"/runs/{run}/steps/a") == {"step": found["steps"][0]}
    assert (await api("GET", f"/runs/{run}/flow"))["flow"] == DOUBLE


async def test_without_wait_there_are_no_results(door: Door, api: Web) -> None:
    created = await api.submit(GATE, "x")
    assert (created["summary"]["status"], created["results"]) == (1, [])
    assert "completedAt" not in created["summary"]
    door.workshop.let("x")


async def test_a_wait_ends_at_its_time(door: Door, api: Web) -> None:
    created = await api.submit(GATE, "x", "y", wait=True, timeoutSecs=0)
    assert created["summary"]["status"] == 1
    run = created["summary"]["runId"]
    door.workshop.let("y")
    await _ended(api, run, 1)
    items = (await api("GET", f"/runs/{run}/items"))["results"]
    assert [(one["itemIndex"], one["status"], one.get("output")) for one in items] == [(0, 1, None), (1, 2, "y")]
    assert (await api("GET", f"/runs/{run}", params={"wait": True, "timeoutSecs": 0}))["summary"]["status"] == 1
    door.workshop.let("x")
    assert (await api("GET", f"/runs/{run}", params={"wait": "true"}))["summary"]["status"] == 2
    ordered = (await api("GET", f"/runs/{run}/items", params={"resultOrder": 2}))["results"]
    assert [one["itemIndex"] for one in ordered] == [1, 0]
    assert ordered == (await api("GET", f"/runs/{run}/items", params={"resultOrder": "by_completion"}))["results"]


async def _ended(api: Web, run: str, count: int) -> None:
    async with asyncio.timeout(20):
        while (await api("GET", f"/runs/{run}"))["summary"]["items"]["completed"] < count:
            await asyncio.sleep(0.02)


async def test_who_leaves_ends_the_wait_and_not_the_run(door: Door, api: Web) -> None:
    created = await api.submit(GATE, "x")
    await door.workshop.begun.get()
    run = created["summary"]["runId"]
    requests = door.gateway._http.state.tasks  # pyright: ignore[reportPrivateUsage]
    async with connected(door) as (_, writer):
        writer.write(f"GET /api/v1/runs/{run}?wait=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: len(requests) == 1)
    began = asyncio.get_running_loop().time()
    await until(lambda: not requests)
    assert asyncio.get_running_loop().time() - began < 5
    door.workshop.let("x")
    assert (await api("GET", f"/runs/{run}", params={"wait": "1"}))["summary"]["status"] == 2


async def test_what_fails_says_why(api: Web) -> None:
    created = await api.run(BOOM, {})
    assert created["summary"]["status"] == 3
    (item,) = created["results"]
    assert (item["status"], item["errorCode"]) == (3, 3)
    assert "the boiler is cold" in item["errorMessage"]
    assert item["errorData"]["type"] == "RuntimeError"
    assert "output" not in item
    (step,) = (await api("GET", f"/runs/{created['summary']['runId']}/steps"))["steps"]
    assert (step["status"], step["errorCode"], step["errorMessage"]) == (3, 3, item["errorMessage"])


@pytest.mark.parametrize(
    "value", [BIG, -BIG, 0.1, 1e300, 12345678901234567890, [BIG], {"z": BIG, "a": 1, "0": {}}, None, "\u00e9\U0001f600"]
)
async def test_data_comes_back_as_it_was_sent(api: Web, value: Any) -> None:
    created = await api.run(ECHO, value)
    assert created["results"][0]["output"] == value
    if isinstance(value, dict):
        assert list(created["results"][0]["output"]) == list(value)


async def test_ids_follow_from_the_content(api: Web) -> None:
    flow = await api.store(DOUBLE)
    assert flow == await api.store(DOUBLE)
    assert flow != await api.store({**DOUBLE, "description": "other"})
    assert (await api("GET", f"/flows/{flow}"))["flow"] == DOUBLE
    blob = (await api("POST", "/blobs", json={"data": {"b": 1, "a": [BIG]}}))["blobId"]
    text = b'{"b":1,"a":[%d]}' % BIG
    assert blob == hashlib.sha256(text).hexdigest()


async def test_an_idempotency_key_gives_one_run(api: Web) -> None:
    flow = await api.store(DOUBLE)
    key = {"Idempotency-Key": "order 17"}
    runs = [(await api("POST", "/runs", json={"flowId": flow, "input": [1]}, headers=key))["summary"]["runId"] for _ in range(3)]
    assert len(set(runs)) == 1
    await api.refused("POST", "/runs", 400, "SM-7103", json={"flowId": flow, "input": [1]}, headers={"Idempotency-Key": "k" * 201})


async def test_variables_and_overrides(api: Web) -> None:
    variables = {
        "type": "object",
        "properties": {"k": {"type": "integer", "default": 3, "description": "how many"}, "r": {"type": "string"}},
    }
    flow = await api.store({
        "name": "v", "schemas": {"type": "object", "properties": {"variables": {**variables, "required": ["r"]}}},
        "steps": [{"id": "a", "component": "/py/echo", "input": {"$variable": "k"}}],
        "output": [{"$step": "a"}, {"$variable": "r"}],
    })  # fmt: skip
    declared = (await api("GET", f"/flows/{flow}/variables"))["variables"]
    assert declared["k"]["defaultValue"] == 3
    assert (declared["k"]["required"], declared["r"]["required"], declared["k"]["description"]) == (False, True, "how many")
    body = {"flowId": flow, "input": [None], "wait": True, "variables": {"r": "x", "k": BIG}}
    assert (await api("POST", "/runs", json=body))["results"][0]["output"] == [BIG, "x"]
    overrides = {"a": {"value": {"input": 7}}}
    assert (await api("POST", "/runs", json={**body, "overrides": overrides}))["results"][0]["output"] == [7, "x"]
    await api.refused("POST", "/runs", 400, "SM-5001", json={**body, "variables": {}})
    await api.refused("POST", "/runs", 400, "SM-7102", json={**body, "variables": [1]})


async def test_flows_that_are_not_valid(api: Web) -> None:
    wrong = {"steps": [{"id": "a", "component": "/x/y", "input": {"$step": "zz"}}]}
    found = await api("POST", "/flows", json={"flow": wrong})
    assert (found["stored"], found["flowId"]) == (False, "")
    report = found["diagnostics"]
    assert report["numFatal"] + report["numError"] >= 1
    worst = next(one for one in report["diagnostics"] if one["level"] == 1)
    assert (worst["kind"], worst["code"], worst["path"]) == ("undefinedStepReference", 2023, "$.steps[0].input.$step")
    assert "zz" in worst["formatted"]
    checked = await api("POST", "/flows", json={"flow": DOUBLE, "dryRun": True})
    assert (checked["stored"], len(checked["flowId"])) == (False, 64)
    await api.refused("GET", f"/flows/{checked['flowId']}", 404, "SM-5004")
    for body in ({}, {"flow": None}, {"flow": []}, {"flow": "x"}, []):
        await api.refused("POST", "/flows", 400, "SM-7102", json=body)


async def test_examples_are_those_of_the_flow_and_of_its_tests(api: Web) -> None:
    flow = await api.store({
        **DOUBLE, "examples": [{"name": "one", "input": BIG}],
        "test": {"cases": [{"name": "two", "description": "d", "input": 2, "output": {"outcome": "success", "result": 4}}]},
    })  # fmt: skip
    examples = (await api("GET", f"/flows/{flow}"))["allExamples"]
    assert examples == [{"name": "one", "input": BIG}, {"name": "two", "description": "d", "input": 2}]


async def test_lists_of_runs(api: Web) -> None:
    good = [(await api.run(DOUBLE, number))["summary"]["runId"] for number in range(3)]
    bad = (await api.run(BOOM, {}))["summary"]["runId"]

    async def ids(**query: Any) -> list[str]:
        return [run["runId"] for run in (await api("GET", "/runs", params=query))["runs"]]

    assert await ids() == [bad, *reversed(good)]
    assert await ids(limit=2, offset=1) == [good[2], good[1]]
    for status in (2, "completed", "COMPLETED"):
        assert await ids(status=status) == good[::-1]
    assert await ids(status="failed") == [bad]
    assert await ids(status=5) == []
    assert await ids(flowName="none of these") == []
    assert await ids(rootRunId=bad) == [bad]
    assert await ids(parentRunId=bad) == []
    assert len(await ids(rootsOnly="true", maxDepth=0)) == 4
    for query in ({"status": "9"}, {"limit": -1}, {"limit": "x"}, {"rootsOnly": "maybe"}, {"rootRunId": "x"}):
        answer = await api.http.get("/api/v1/runs", params=query)
        assert answer.status_code == 400


async def test_cancel_is_real(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x", "y"))["summary"]["runId"]
    await door.workshop.begun.get()
    cancelled = await api("POST", f"/runs/{run}/cancel", json={})
    assert cancelled["summary"]["status"] in (1, 4)
    ended = await api("GET", f"/runs/{run}", params={"wait": "true"})
    assert ended["summary"]["status"] == 4
    assert (await api("POST", f"/runs/{run}/cancel"))["summary"]["status"] == 4
    done = (await api.run(DOUBLE, 1))["summary"]["runId"]
    assert (await api("POST", f"/runs/{done}/cancel"))["summary"]["status"] == 2


async def test_delete_is_real(door: Door, api: Web) -> None:
    flow = await api.store(GATE)
    run = (await api("POST", "/runs", json={"flowId": flow, "input": ["x"]}))["summary"]["runId"]
    error = await api.refused("DELETE", f"/runs/{run}", 409, "SM-5012")
    assert error["status"] == "FAILED_PRECONDITION"
    await api.refused("DELETE", f"/flows/{flow}", 409, "SM-5013")
    door.workshop.let("x")
    await api("GET", f"/runs/{run}", params={"wait": "true"})
    assert await api("DELETE", f"/runs/{run}") == {}
    await api.refused("GET", f"/runs/{run}", 404, "SM-5003")
    assert await api("DELETE", f"/flows/{flow}") == {}
    await api.refused("GET", f"/flows/{flow}", 404, "SM-5004")
    await api.refused("DELETE", f"/flows/{flow}", 404, "SM-5004")


@pytest.mark.parametrize("path", ["", "/items", "/steps", "/steps/a", "/flow", "/events", "/cancel"])
async def test_a_run_that_is_not_there(api: Web, path: str) -> None:
    method = "POST" if path == "/cancel" else "GET"
    error = await api.refused(method, f"/runs/{RUN}{path}", 404, "SM-5003")
    assert RUN in error["message"]
    await api.refused(method, f"/runs/no-id{path}", 400, "SM-7002")


async def test_a_step_that_is_not_there(api: Web) -> None:
    run = (await api.run(DOUBLE, 1))["summary"]["runId"]
    await api.refused("GET", f"/runs/{run}/steps/b", 404, "SM-7005")
    await api.refused("GET", f"/runs/{run}/steps/a", 404, "SM-7005", params={"itemIndex": 1})


async def test_blobs_of_json(api: Web) -> None:
    stored = await api("POST", "/blobs", json={"data": {"b": [BIG], "a": None}, "filename": "x.json"})
    assert stored["filename"] == "x.json"
    found = await api("GET", f"/blobs/{stored['blobId']}")
    assert found == {"data": {"b": [BIG], "a": None}, "blobType": "data", "blobId": stored["blobId"], "filename": "x.json"}
    flow = await api("POST", "/blobs", json={"data": DOUBLE, "blobType": "flow"})
    assert (await api("GET", f"/blobs/{flow['blobId']}"))["blobType"] == "flow"
    run = await api("POST", "/runs", json={"flowId": flow["blobId"], "input": [4], "wait": True})
    assert run["results"][0]["output"] == 8
    await api.refused("POST", "/blobs", 400, "SM-7102", json={"data": 1, "blobType": "binary"})
    await api.refused("GET", f"/blobs/{'0' * 64}", 404, "SM-5005")


@pytest.mark.parametrize(
    ("name", "sent", "disposition"),
    [
        ("z.bin", b"z.bin", 'attachment; filename="z.bin"'),
        (None, None, "attachment"),
        ("\u00fc.bin", "\u00fc.bin".encode(), "attachment; filename*=UTF-8''%C3%BC.bin"),
        ('a"b\\c', b'a"b\\c', "attachment; filename*=UTF-8''a%22b%5Cc"),
        ("\u00fc", b"\xfc", "attachment; filename*=UTF-8''%C3%BC"),
    ],
)
async def test_blobs_of_bytes(api: Web, name: str | None, sent: bytes | None, disposition: str) -> None:
    data = bytes(range(256)) + (name or "").encode()
    headers: list[tuple[bytes, bytes]] = [(b"Content-Type", b"application/octet-stream")]
    if sent is not None:
        headers.append((b"X-Blob-Filename", sent))
    stored = await api("POST", "/blobs", content=data, headers=headers)
    assert stored["blobId"] == hashlib.sha256(data).hexdigest()
    assert stored.get("filename") == name
    found = await api("GET", f"/blobs/{stored['blobId']}")
    assert (found["data"], found["blobType"], found.get("filename"), found["contentType"]) == (
        None,
        "binary",
        name,
        "application/octet-stream",
    )
    answer = await api.http.get(f"/api/v1/blobs/{stored['blobId']}", headers={"Accept": "application/octet-stream"})
    assert answer.content == data
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == disposition
    assert answer.headers["x-blob-type"] == "binary"


async def test_components(api: Web) -> None:
    found: dict[str, Any] = {"components": []}
    async with asyncio.timeout(20):
        while "py" not in {one["plugin"] for one in found["components"]}:
            found = await api("GET", "/components")
    double = next(one for one in found["components"] if one["path"] == "/py/double")
    assert (double["componentId"], double["plugin"]) == ("/double", "py")
    assert double["inputSchema"]["type"] == "integer"
    assert (found["complete"], found["failedPlugins"]) == (True, [])
    plain = await api("GET", "/components", params={"excludeSchemas": "true"})
    assert all("inputSchema" not in one for one in plain["components"])


async def test_a_long_list_comes_in_pieces_and_whole(api: Web) -> None:
    text = "x" * 1000
    created = await api.run(ECHO, *[f"{text}{number}" for number in range(300)])
    assert [one["output"][1000:] for one in created["results"]] == [str(number) for number in range(300)]
    answer = await api.http.get(f"/api/v1/runs/{created['summary']['runId']}/items")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.json()["results"] == created["results"]


async def test_the_gateway_stops_in_the_middle_of_a_wait(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    before = len(asyncio.all_tasks())
    waiting = asyncio.ensure_future(api.http.get(f"/api/v1/runs/{run}", params={"wait": "true"}))
    await until(lambda: len(asyncio.all_tasks()) > before + 2)
    began = asyncio.get_running_loop().time()
    await door.gateway.stop()
    assert asyncio.get_running_loop().time() - began < 1.5, "not the drain time"
    answer: httpx.Response = await waiting
    assert (answer.status_code, answer.json()["summary"]["status"]) == (200, 1)
    door.workshop.let("x")
