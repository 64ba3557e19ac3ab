"""Events, answers and webhooks over HTTP: kept, once by their ids, given to the step whose token it is."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.gateway.door import Door
from tests.unit.gateway.web import RUN, Web, error, web

from stepmesh import Client
from stepmesh_broker.protocol.api import GetSteps, Steps
from stepmesh_broker.protocol.ids import RunId

WAIT = {
    "name": "wait",
    "steps": [{"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": {"$input": "key"}}}],
    "output": {"$step": "w"},
}
OWN = {
    "name": "own",
    "steps": [{"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "paid"}}],
    "output": {"$step": "w"},
}
APPROVAL = {"name": "ask", "steps": [{"id": "w", "component": "/builtin/approval", "input": {}}], "output": {"$step": "w"}}


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def waiting(api: Web, flow: dict[str, Any], value: Any = None) -> str:
    return str((await api.submit(flow, value))["summary"]["runId"])


async def output(api: Web, run: str) -> Any:
    found = await api("GET", f"/runs/{run}?wait=true")
    (item,) = (await api("GET", f"/runs/{found['summary']['runId']}/items"))["results"]
    return item.get("output", item.get("errorData"))


async def token(door: Door, run: str) -> str:
    client = Client(await door.deployment.connect())
    (step,) = (await client.requests.ask(GetSteps(RunId(run)), Steps)).steps
    assert step.status == "awaiting"
    line, *_ = await client.explain(run)
    assert line.endswith(f"; token {step.token}")
    return step.token


async def test_an_event_finds_the_run_by_its_key_and_once_by_its_id(api: Web) -> None:
    early = await api.http.post("/v1/events", json={"name": "paid", "key": "o1", "data": {"n": 1}, "id": "e1"})
    assert (early.status_code, early.json()) == (202, {"id": "e1", "matched": 0, "buffered": True, "existing": False})
    again = await api.http.post("/v1/events", json={"name": "paid", "key": "o1"}, headers={"Idempotency-Key": "e1"})
    assert again.json() == {"id": "e1", "matched": 0, "buffered": False, "existing": True}
    run = await waiting(api, WAIT, {"key": "o1"})
    late = await api.http.post("/v1/events", json={"name": "paid", "key": "o1", "data": 2**70})
    assert late.status_code == 202
    assert await output(api, run) == 2**70


async def test_a_signal_finds_its_run(api: Web) -> None:
    run = await waiting(api, OWN)
    sent = await api.http.post(f"/v1/runs/{run}/signals/paid?id=s1", content=b'{"n": 3}')
    assert (sent.status_code, sent.json()["id"]) == (202, "s1")
    assert await output(api, run) == {"n": 3}


async def test_notify_is_an_event_by_its_name_alone(api: Web) -> None:
    run = await waiting(api, WAIT, {"key": ""})
    assert (await api.http.post("/notify/paid", json=[1])).status_code == 202
    assert await output(api, run) == [1]


@pytest.mark.parametrize(("how", "approved"), [("resolve", True), ("reject", False)])
async def test_a_decision_is_given_by_token_and_another_one_is_too_late(door: Door, api: Web, how: str, approved: bool) -> None:
    run = await waiting(api, APPROVAL)
    name = await token(door, run)
    assert (await api("GET", f"/runs/{run}/steps"))["steps"][0]["token"] == name
    for _ in range(2):
        assert (await api.http.post(f"/v1/promises/{name}/{how}")).status_code == 200
    assert (await output(api, run))["approved"] is approved
    other = await api.http.post(f"/v1/promises/{name}/{'reject' if approved else 'resolve'}")
    assert "settled already at 20" in error(other, 409, "SM-1060")["detail"]


async def test_a_changed_token_is_unknown(door: Door, api: Web) -> None:
    name = await token(door, await waiting(api, APPROVAL))
    for wrong in ("nonsense", f"{name[:10]}{'A' if name[10] != 'A' else 'B'}{name[11:]}"):
        assert "unknown" in error(await api.http.post(f"/v1/promises/{wrong}/resolve"), 409, "SM-1060")["detail"]


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"json": {"a": [1]}}, {"a": [1]}),
        ({"content": b"a=1", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, "a=1"),
        ({"content": b"\xff\x00"}, {"base64": "/wA="}),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, {"base64": "ew=="}),
        ({}, None),
    ],
)
async def test_a_webhook_gives_the_step_the_request(door: Door, api: Web, options: Any, body: Any) -> None:
    run = await waiting(api, OWN)
    headers = {**options.pop("headers", {}), "X-Event": "pushed", "Authorization": "Bearer secret"}
    answer = await api.http.post(f"/v1/hooks/{await token(door, run)}?a=1", headers=headers, **options)
    assert answer.status_code == 200
    found = await output(api, run)
    assert (found["method"], found["query"], found["body"], found["headers"]["x-event"]) == ("POST", {"a": "1"}, body, "pushed")
    assert "authorization" not in found["headers"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_a_webhook_takes_any_method(door: Door, api: Web, method: str) -> None:
    run = await waiting(api, OWN)
    assert (await api.http.request(method, f"/v1/hooks/{await token(door, run)}")).status_code == 200
    assert (await output(api, run))["method"] == method


async def test_a_webhook_decides_nothing(door: Door, api: Web) -> None:
    name = await token(door, await waiting(api, APPROVAL))
    error(await api.http.get(f"/v1/hooks/{name}"), 400, "SM-5203")


async def test_what_cannot_be_is_refused_with_a_problem(api: Web) -> None:
    error(await api.http.post("/v1/events", json={"name": ""}), 400, "SM-5200")
    error(await api.http.post("/v1/events", json={"key": "k"}), 400, "SM-7102")
    error(await api.http.post(f"/v1/runs/{RUN}/signals/paid", content=b"{"), 400, "SM-5200")
    error(await api.http.post("/v1/events", json={"name": "n", "data": "x" * 300_000}), 413, "SM-5201")
    error(await api.http.post("/v1/nothing"), 404, "SM-7100")


async def test_who_looks_at_a_hook_does_not_answer_it(door: Door, api: Web) -> None:
    run = await waiting(api, WAIT, {"key": "o1"})
    hook = f"/v1/hooks/{await token(door, run)}"
    looked = await api.http.head(hook)
    assert (looked.status_code, looked.headers["allow"]) == (405, "DELETE, GET, PATCH, POST, PUT")
    assert (await api.http.post(hook, json={"n": 1})).status_code == 200
    assert (await output(api, run))["method"] == "POST"


async def test_a_hook_takes_what_is_nested_too_deeply_as_bytes(door: Door, api: Web) -> None:
    run = await waiting(api, WAIT, {"key": "o1"})
    deep = b"[" * 20_000 + b"]" * 20_000
    sent = await api.http.post(f"/v1/hooks/{await token(door, run)}", content=deep, headers={"content-type": "application/json"})
    assert sent.status_code == 200
    assert (await output(api, run))["body"] == {"base64": b64encode(deep).decode()}


async def test_a_namespace_that_is_not_served_is_the_callers_mistake(api: Web) -> None:
    sent = await api.http.post("/v1/events", json={"name": "paid", "namespace": "elsewhere"})
    assert (sent.status_code, sent.json()["code"]) == (400, "SM-5008")
