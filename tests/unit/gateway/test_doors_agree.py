"""gRPC and REST tell the same of the same things: every field that both have, and every refusal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.gateway.door import Client, Door, details, one_step
from tests.unit.gateway.web import RUN as NOWHERE
from tests.unit.gateway.web import Web, web

from stepmesh_gateway.translate.values import plain_value

ONLY_IN_REST = {"errorData"}
NUMBERS = {"createdAtSeqno", "finishedAtSeqno", "journalSeqno", "sequenceNumber"}
TIMES = {"createdAt", "completedAt", "startedAt", "updatedAt", "timestamp"}


def of_rpc(message: Any) -> Any:
    """A message as REST would have it. What a message cannot leave out, an empty default, is left out of both."""
    return same(MessageToDict(message, use_integers_for_enums=True, always_print_fields_with_no_presence=True))


def same(found: Any, key: str = "") -> Any:
    """Without what only REST has; numbers as numbers, and moments as moments."""
    if isinstance(found, dict):
        return {name: same(member, name) for name, member in found.items() if name not in ONLY_IN_REST}
    if isinstance(found, list):
        return [same(member) for member in found]
    if key in TIMES:
        return datetime.fromisoformat(found)
    return int(found) if key in NUMBERS else found


@pytest.fixture
async def rest(door: Door) -> AsyncIterator[Web]:
    """REST of the same gateway."""
    async with web(door) as client:
        yield client


@pytest.fixture
async def told(door: Door) -> AsyncIterator[dict[str, str]]:
    """Runs of every kind, by what became of them."""
    client = door.client
    child = (await client.store(one_step())).flow_id
    parent = one_step("/builtin/eval", steps=[{"id": "e", "component": "/builtin/eval", "input": {"flow_id": child, "input": 3}}])
    parent["output"] = {"$step": "e"}
    several = {
        "name": "several",
        "steps": [
            {"id": "skipped", "component": "/py/double", "input": 1, "skip": True},
            {"id": "b", "component": "/py/boom", "input": None, "onError": {"action": "useDefault", "defaultValue": {"d": [1.5, None]}}},
            {"id": "c", "component": "/py/echo", "input": {"$step": "b"}},
        ],
        "output": [{"$step": "c"}, {"$coalesce": [{"$step": "skipped"}, 2]}],
    }
    runs = {
        "completed": await client.run(one_step(), 1, 2, 3),
        "failed": await client.run(one_step("/py/boom"), None),
        "parent": await client.run(parent, None),
        "several": await client.run(several, {"x": 1}),
        "live": await client.submit(one_step("/py/gate"), "a", "b"),
        "cancelled": await client.submit(one_step("/py/gate"), "c"),
        "null": await client.run({"name": "n", "steps": [], "output": None}, None),
    }
    ids = {name: run.summary.run_id for name, run in runs.items()}
    for _ in range(3):
        await door.workshop.begun.get()
    door.workshop.let("a")
    while sum(item.status == 2 for item in (await client("RunsService/GetRunItems", run_id=ids["live"])).results) < 1:
        pass
    await client("RunsService/CancelRun", run_id=ids["cancelled"])
    ids["child"] = (await client("RunsService/ListRuns", parent_run_id=ids["parent"])).runs[0].run_id
    yield ids
    door.workshop.let_all()


async def test_of_runs_and_all_that_belongs_to_them(client: Client, rest: Web, told: dict[str, str]) -> None:
    for name, run in told.items():
        for rpc, path, fields in (
            ("GetRun", "", {}),
            ("GetRunItems", "/items", {}),
            ("GetRunItems", "/items?resultOrder=2", {"result_order": 2}),
            ("GetRunSteps", "/steps", {}),
            ("GetRunSteps", "/steps?itemIndex=0", {"item_index": 0}),
            ("GetRunFlow", "/flow", {}),
        ):
            by_rpc = of_rpc(await client(f"RunsService/{rpc}", run_id=run, **fields))
            assert same(await rest("GET", f"/runs/{run}{path}")) == by_rpc, (name, path)


async def test_of_a_step_now_and_then(client: Client, rest: Web, told: dict[str, str]) -> None:
    run = told["several"]
    for step in (await client("RunsService/GetRunSteps", run_id=run)).steps:
        by_rpc = of_rpc(await client("RunsService/GetStepDetail", run_id=run, step_id=step.step_id))
        assert same(await rest("GET", f"/runs/{run}/steps/{step.step_id}")) == by_rpc
        as_of = step.journal_seqno
        by_rpc = of_rpc(await client("RunsService/GetStepDetail", run_id=run, step_id=step.step_id, asof=as_of))
        assert same(await rest("GET", f"/runs/{run}/steps/{step.step_id}?asof={as_of}")) == by_rpc


async def test_of_lists(client: Client, rest: Web, told: dict[str, str]) -> None:
    queries: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        ("?status=2", {"status": 2}),
        ("?status=1", {"status": 1}),
        ("?flowName=several", {"flow_name": "several"}),
        (f"?rootRunId={told['parent']}", {"root_run_id": told["parent"]}),
        (f"?parentRunId={told['parent']}", {"parent_run_id": told["parent"]}),
        ("?rootsOnly=true", {"roots_only": True}),
        ("?maxDepth=0", {"max_depth": 0}),
        ("?limit=2&offset=1", {"limit": 2, "offset": 1}),
    ]
    for query, fields in queries:
        assert same(await rest("GET", f"/runs{query}")) == of_rpc(await client("RunsService/ListRuns", **fields)), query


async def test_of_events(client: Client, rest: Web, told: dict[str, str]) -> None:
    for name in ("completed", "failed", "parent", "several", "cancelled", "child"):
        run = told[name]
        asked = {"include_sub_runs": True, "include_results": True}
        by_rpc = [of_rpc(one) async for one in client.stream("RunsService/GetRunEvents", run_id=run, **asked)]
        text = (await rest.http.get(f"/api/v1/runs/{run}/events?includeSubRuns=true&includeResults=true")).text
        frames = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")[1:]]
        assert [_event(frame) for frame in frames[:-1]] == by_rpc, name
        assert frames[-1]["event"] == "end"


def _event(frame: dict[str, str]) -> Any:
    """A frame as the message is: the event in a field of its own name."""
    data = same(json.loads(frame["data"]))
    ((name, happened),) = data.pop("event").items()
    happened = {key: value for key, value in happened.items() if key != "errorMessage" and key != "errorCode"}
    return {**data, name[0].lower() + name[1:]: happened}


async def test_of_a_submission_and_its_end(client: Client, rest: Web) -> None:
    flow = (await client.store(one_step())).flow_id
    by_rpc = of_rpc(await client("RunsService/CreateRun", flow_id=flow, input=[plain_value(4)], wait=True))
    by_rest = same(await rest("POST", "/runs", json={"flowId": flow, "input": [4], "wait": True}))
    assert _shape(by_rest) == _shape(by_rpc)
    assert [item["output"] for item in by_rest["results"]] == [item["output"] for item in by_rpc["results"]] == [8]


def _shape(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _shape(member) for name, member in found.items()}
    if isinstance(found, list):
        return [_shape(member) for member in found]
    return float if isinstance(found, (int, float)) else type(found)


async def test_of_flows(client: Client, rest: Web) -> None:
    variable = {"type": "integer", "default": 1, "env_var": "V"}
    variables = {"type": "object", "properties": {"v": variable, "w": {"type": "string"}}, "required": ["w"]}
    flow = one_step(
        examples=[{"name": "x", "input": {"a": 1}}],
        test={"cases": [{"name": "c", "input": 2}]},
        schemas={"type": "object", "properties": {"variables": variables}},
    )
    flow = json.loads(json.dumps(flow, sort_keys=True))  # a Struct has no order of its own, and what it stores is sorted
    stored = await client.store(flow)
    assert same(await rest("POST", "/flows", json={"flow": flow})) == of_rpc(stored)
    bad = {"steps": [{"id": "a", "component": 5, "x": 1}]}
    assert _without_places(same(await rest("POST", "/flows", json={"flow": bad}))) == _without_places(of_rpc(await client.store(bad)))
    assert same(await rest("GET", f"/flows/{stored.flow_id}")) == of_rpc(await client("FlowsService/GetFlow", flow_id=stored.flow_id))
    by_rpc = of_rpc(await client("FlowsService/GetFlowVariables", flow_id=stored.flow_id))
    assert same(await rest("GET", f"/flows/{stored.flow_id}/variables")) == by_rpc


def _without_places(stored: Any) -> Any:
    """Line and column are those of the text, and a Struct has none of its own."""
    for found in stored["diagnostics"]["diagnostics"]:
        for place in ("line", "column"):
            found.get("data", {}).pop(place, None)
    return stored


async def test_of_components_blobs_and_health(client: Client, rest: Web) -> None:
    for query, fields in (("", {}), ("?excludeSchemas=true", {"exclude_schemas": True})):
        by_rpc = of_rpc(await client("ComponentsService/ListRegisteredComponents", **fields))
        assert same(await rest("GET", f"/components{query}")) == by_rpc
    put = await client("BlobService/PutBlob", json_data=plain_value({"a": 1}), filename="f")
    posted = await rest("POST", "/blobs", json={"data": {"a": 1}, "filename": "f"})
    assert posted == of_rpc(put)
    got = of_rpc(await client("BlobService/GetBlob", blob_id=put.blob_id))
    got["data"] = got.pop("jsonData")
    assert await rest("GET", f"/blobs/{put.blob_id}") == got
    by_rest = await rest("GET", "/health")
    by_rpc = of_rpc(await client("HealthService/HealthCheck"))
    assert (by_rest["status"], by_rest["build"]["gitVersion"]) == (by_rpc["status"], by_rpc["build"]["gitVersion"])


@pytest.mark.parametrize(
    ("rpc", "fields", "method", "path", "body"),
    [
        ("RunsService/GetRun", {"run_id": NOWHERE}, "GET", f"/runs/{NOWHERE}", None),
        ("RunsService/GetRun", {"run_id": "x"}, "GET", "/runs/x", None),
        ("RunsService/GetRunItems", {"run_id": NOWHERE}, "GET", f"/runs/{NOWHERE}/items", None),
        ("RunsService/GetRunSteps", {"run_id": NOWHERE}, "GET", f"/runs/{NOWHERE}/steps", None),
        ("RunsService/GetStepDetail", {"run_id": NOWHERE, "step_id": "a"}, "GET", f"/runs/{NOWHERE}/steps/a", None),
        ("RunsService/GetRunFlow", {"run_id": NOWHERE}, "GET", f"/runs/{NOWHERE}/flow", None),
        ("RunsService/CancelRun", {"run_id": NOWHERE}, "POST", f"/runs/{NOWHERE}/cancel", {}),
        ("RunsService/DeleteRun", {"run_id": NOWHERE}, "DELETE", f"/runs/{NOWHERE}", None),
        ("RunsService/CreateRun", {"flow_id": "0" * 64, "input": [plain_value(1)]}, "POST", "/runs", {"flowId": "0" * 64, "input": [1]}),
        ("FlowsService/GetFlow", {"flow_id": "0" * 64}, "GET", f"/flows/{'0' * 64}", None),
        ("FlowsService/GetFlow", {"flow_id": "x"}, "GET", "/flows/x", None),
        ("FlowsService/DeleteFlow", {"flow_id": "0" * 64}, "DELETE", f"/flows/{'0' * 64}", None),
        ("FlowsService/GetFlowVariables", {"flow_id": "0" * 64}, "GET", f"/flows/{'0' * 64}/variables", None),
        ("BlobService/GetBlob", {"blob_id": "0" * 64}, "GET", f"/blobs/{'0' * 64}", None),
        ("BlobService/GetBlob", {"blob_id": "x"}, "GET", "/blobs/x", None),
    ],
)
async def test_of_refusals(client: Client, rest: Web, rpc: str, fields: dict[str, Any], method: str, path: str, body: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client(rpc, **fields)
    answer = await rest.http.request(method, f"/api/v1{path}", json=body)
    error = answer.json()["error"]
    info = details(caught.value)[0]
    assert (error["reason"], error["status"], error.get("hint", "")) == (info.reason, caught.value.code().name, info.metadata["hint"])


async def test_of_what_cannot_be_done_now(client: Client, rest: Web, told: dict[str, str]) -> None:
    for rpc, path in (("RunsService/DeleteRun", f"/runs/{told['live']}"), ("RunsService/DeleteRun", f"/runs/{told['child']}")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client(rpc, run_id=path.rpartition("/")[2])
        answer = await rest.http.delete(f"/api/v1{path}")
        assert answer.json()["error"]["reason"] == details(caught.value)[0].reason
        assert (answer.status_code, caught.value.code()) == (409, grpc.StatusCode.FAILED_PRECONDITION)
