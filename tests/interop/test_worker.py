"""The real worker: its components, data, errors, blobs and sub-runs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from tests.interop.deployment import CallFailed, Driver, Server

DATA = {
    "integer": 42,
    "negative": -7,
    "largest exact": 2**53,
    "float": 0.1,
    "large float": 1.5e300,
    "text": "grüße, 世界 \U0001f30d",
    "empty text": "",
    "true": True,
    "empty list": [],
    "empty object": {},
    "nested": {"b": [1, {"c": None}], "a": {"": ["x"]}},
    "many": list(range(500)),
    "quotes": '"\\\n\t',
}


@pytest.mark.parametrize("name", DATA)
def test_data_goes_there_and_back(client: Driver, name: str) -> None:
    assert client.one("/python/same", {"value": DATA[name]})["output"] == {"value": DATA[name]}


def test_a_typed_component(client: Driver) -> None:
    assert client.one("/python/add", {"a": 2, "b": 40})["output"] == {"sum": 42}


def test_input_that_does_not_fit_the_type(client: Driver) -> None:
    ended = client.one("/python/add", {"a": "two", "b": 40})
    assert ended["status"] == "EXECUTION_STATUS_FAILED"
    assert "a" in ended["error_message"]


def test_an_id_is_not_a_path(client: Driver) -> None:
    assert client.one("/python/named/differently", {"n": 1})["output"] == {"seen": {"n": 1}}


def test_path_parameters(client: Driver) -> None:
    assert client.one("/python/greet/Ada", {"word": "hi"})["output"] == {"text": "hi Ada"}


def test_the_rest_of_a_path(client: Driver) -> None:
    assert client.one("/python/files/a/b/c", {})["output"] == {"rest": "a/b/c"}


def test_what_a_context_tells(client: Driver) -> None:
    flow = client.store({"id": "me", "component": "/python/who", "input": {}})
    created = client("run", flow_id=flow, input_data={})
    assert created["results"][0]["output"] == {"run": created["summary"]["run_id"], "flow": flow, "step": "me", "attempt": 1}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("value", "COMPONENT_FAILED"),
        ("type", "INVALID_INPUT"),
        ("key", "COMPONENT_FAILED"),
        ("connection", "RESOURCE_UNAVAILABLE"),
        ("timeout", "RESOURCE_UNAVAILABLE"),
        ("os", "RESOURCE_UNAVAILABLE"),
        ("stepflow", "WORKER_ERROR"),
        ("stepflow-value", "INVALID_INPUT"),
        ("stepflow-execution", "COMPONENT_FAILED"),
        ("stepflow-runtime", "RESOURCE_UNAVAILABLE"),
        ("stepflow-component", "COMPONENT_NOT_FOUND"),
        ("stepflow-validation", "INVALID_INPUT"),
    ],
)
def test_an_error_keeps_its_code_and_text(client: Driver, kind: str, code: str) -> None:
    ended = client.one("/python/fail", {"kind": kind})
    assert ended["status"] == "EXECUTION_STATUS_FAILED"
    assert ended["error_code"] == f"TASK_ERROR_CODE_{code}"
    assert "no good" in ended["error_message"]


def test_an_error_keeps_its_data(client: Driver) -> None:
    flow = client.store(
        {
            "id": "only",
            "component": "/python/fail",
            "input": {"kind": "stepflow-value"},
            "onError": {"action": "useDefault", "defaultValue": {"$error": "$.data"}},
        }
    )
    data = client.run(flow, {})[0]["output"]
    assert data["exception_type"] == "StepflowValueError"
    assert data["details"] == {"detail": 7}
    assert "Traceback" in data["traceback"]


def test_a_default_instead_of_an_error(client: Driver) -> None:
    ended = client.one("/python/fail", {"kind": "value"}, onError={"action": "useDefault", "defaultValue": {"was": "bad"}})
    assert ended["output"] == {"was": "bad"}


def test_retries_until_it_works(client: Driver, server: Server) -> None:
    retry = {"action": "retry", "maxRetries": 3, "backoff": {"type": "constant", "initial": "10ms"}}
    assert client.one("/python/fail", {"kind": "value", "until": 3, "mark": "retried"}, onError=retry)["output"] == {"after": 3}
    assert len(server.marked("retried")) == 3


def test_retries_that_are_spent(client: Driver, server: Server) -> None:
    retry = {"action": "retry", "maxRetries": 1, "backoff": {"type": "constant", "initial": "10ms"}}
    ended = client.one("/python/fail", {"kind": "value", "until": 9, "mark": "spent"}, onError=retry)
    assert ended["error_code"] == "TASK_ERROR_CODE_COMPONENT_FAILED"
    assert len(server.marked("spent")) == 2


def test_an_unknown_component_fails_at_once(client: Driver) -> None:
    ended = client.one("/python/sane", {})
    assert ended["error_code"] == "TASK_ERROR_CODE_COMPONENT_NOT_FOUND"
    assert "same" in ended["error_message"]


# --- udf ----------------------------------------------------------------------------------------------------------------


def udf(client: Driver, code: str, input: Any, schema: Any = None) -> dict[str, Any]:
    """Run Python code that is stored as a blob, as Stepflow's flows do."""
    flow = client.store(
        {
            "id": "code",
            "component": "/builtin/put_blob",
            "input": {"data": {"$literal": {"code": code, "input_schema": schema or {"type": "object"}}}, "blob_type": "data"},
        },
        {"id": "call", "component": "/python/udf", "input": {"blob_id": {"$step": "code", "path": "$.blob_id"}, "input": {"$input": "$"}}},
    )
    return client.run(flow, input)[0]


@pytest.mark.parametrize(
    "code",
    [
        "input['a'] + input['b']",
        "lambda input: input['a'] + input['b']",
        "def f(input):\n    return input['a'] + input['b']",
        "return input['a'] + input['b']",
        "async def f(input):\n    return input['a'] + input['b']",
    ],
    ids=["expression", "lambda", "function", "body", "async"],
)
def test_udf_code_of_every_form(client: Driver, code: str) -> None:
    assert udf(client, code, {"a": 2, "b": 3})["output"] == 5


def test_udf_with_a_context(client: Driver) -> None:
    ended = udf(
        client, "async def f(input, context):\n    return await context.get_blob(await context.put_blob({'n': input['n']}))", {"n": 5}
    )
    assert ended["output"] == {"n": 5}


def test_udf_that_does_not_compile(client: Driver) -> None:
    ended = udf(client, "def (", {})
    assert ended["error_code"] == "TASK_ERROR_CODE_COMPONENT_FAILED"
    assert "compile" in ended["error_message"]


def test_udf_input_against_its_schema(client: Driver) -> None:
    ended = udf(client, "input['a']", {"a": "x"}, {"type": "object", "properties": {"a": {"type": "number"}}})
    assert "is not of type 'number'" in ended["error_message"]


# --- blobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{"n": 1}, [1, 2.5, None], "text", 7, True], ids=str)
def test_a_blob_between_workers_and_built_ins(client: Driver, data: Any) -> None:
    flow = client.store(
        {"id": "keep", "component": "/python/keep", "input": {"data": {"$input": "$.data"}}},
        {"id": "inside", "component": "/builtin/get_blob", "input": {"blob_id": {"$step": "keep", "path": "$.blob"}}},
        {"id": "outside", "component": "/python/fetch", "input": {"blob": {"$step": "keep", "path": "$.blob"}}},
        output={"id": {"$step": "keep", "path": "$.blob"}, "in": {"$step": "inside", "path": "$.data"}, "out": {"$step": "outside"}},
    )
    output = client.run(flow, {"data": data})[0]["output"]
    assert output["in"] == data
    assert output["out"] == {"data": data}
    assert output["id"] == hashlib.sha256(json.dumps(data, separators=(",", ":")).encode()).hexdigest()


def test_a_blob_of_bytes(client: Driver) -> None:
    flow = client.store(
        {"id": "keep", "component": "/python/keep", "input": {"text": "bytes ✓"}},
        {"id": "fetch", "component": "/python/fetch", "input": {"blob": {"$step": "keep", "path": "$.blob"}}},
    )
    assert client.run(flow, {})[0]["output"] == {"text": "bytes ✓"}


def test_a_blob_that_is_not_there(client: Driver) -> None:
    ended = client.one("/python/fetch", {"blob": "0" * 64})
    assert ended["status"] == "EXECUTION_STATUS_FAILED"
    assert "there is no blob" in ended["error_message"]


# --- sub-runs -----------------------------------------------------------------------------------------------------------

DOUBLE = {
    "name": "double",
    "description": "for sub-runs",
    "steps": [{"id": "add", "component": "/python/add", "input": {"a": {"$input": "$.n"}, "b": {"$input": "$.n"}}}],
    "output": {"$step": "add", "path": "$.sum"},
}


def test_a_flow_from_inside_a_component(client: Driver) -> None:
    assert client.one("/python/below", {"flow": DOUBLE, "input": {"n": 21}})["output"] == 42


def test_several_items_from_inside_a_component(client: Driver) -> None:
    assert client.one("/python/many_below", {"flow": DOUBLE, "inputs": [{"n": n} for n in range(1, 6)]})["output"] == [2, 4, 6, 8, 10]


def test_a_sub_run_that_fails_fails_its_step(client: Driver) -> None:
    ended = client.one("/python/below", {"flow": DOUBLE, "input": {"m": 21}})
    assert ended["status"] == "EXECUTION_STATUS_FAILED"
    assert "$.n not found" in ended["error_message"]


def test_more_sub_runs_than_the_worker_has_slots(client: Driver) -> None:
    flow = client.store({"id": "only", "component": "/python/below", "input": {"flow": {"$literal": DOUBLE}, "input": {"$input": "$"}}})
    assert [one["output"] for one in client.run(flow, *({"n": n} for n in range(1, 4)), timeout=60)] == [2, 4, 6]


def test_a_sub_run_is_linked(client: Driver) -> None:
    flow = client.store({"id": "only", "component": "/python/below", "input": {"flow": {"$literal": DOUBLE}, "input": {"n": 1}}})
    top = client("run", flow_id=flow, input_data={})["summary"]["run_id"]
    runs = client.rpc("runs", "ListRuns", root_run_id=top)["runs"]
    assert [run.get("parent_run_id") for run in runs if run["run_id"] != top] == [top]


def test_a_step_that_is_tried_again_finds_its_sub_run(client: Driver, server: Server) -> None:
    retry = {"action": "retry", "maxRetries": 3, "backoff": {"type": "constant", "initial": "10ms"}}
    input = {"flow": DOUBLE, "input": {"n": 4}, "mark": "sub", "until": 3}
    ended = client.one("/python/start_below", {**input}, onError=retry)
    assert ended["output"]["results"][0]["output"] == 8
    assert len(server.marked("sub")) == 3
    assert len(set(server.marked("sub"))) == 1


def starting_a_sub_run(output: Any) -> dict[str, Any]:
    """A flow whose only step is a worker's that starts a sub-run."""
    step = {"id": "b", "component": "/python/below", "input": {"flow": {"$literal": DOUBLE}, "input": {"$input": "$"}}}
    return {"name": "inner", "description": "starts a sub-run", "steps": [step], "output": output}


INSIDE = {
    "map": (
        {"workflow": {"$literal": starting_a_sub_run({"$step": "b"})}, "items": [{"n": 1}, {"n": 2}, {"n": 3}], "max_concurrency": 2},
        "$.results",
        [{"outcome": "success", "result": result} for result in (2, 4, 6)],
    ),
    "eval": (
        {"flow": {"$literal": starting_a_sub_run({"$step": "b"})}, "input": {"n": 4}},
        "$.result",
        {"outcome": "success", "result": 8},
    ),
    "iterate": ({"flow": {"$literal": starting_a_sub_run({"result": {"$step": "b"}})}, "initial_input": {"n": 5}}, "$.result", 10),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_sub_runs_inside_built_ins(client: Driver, kind: str) -> None:
    input, path, expected = INSIDE[kind]
    flow = client.store({"id": "built_in", "component": f"/builtin/{kind}", "input": input}, output={"$step": "built_in", "path": path})
    assert client.run(flow, {})[0]["output"] == expected


@pytest.mark.parametrize(
    ("built_in", "input"),
    [("map", {"items": 3}), ("eval", {"input": 1}), ("iterate", {"flow": 7}), ("get_blob", {}), ("sleep", {"duration_ms": "long"})],
    ids=["map", "eval", "iterate", "get_blob", "sleep"],
)
def test_bad_input_of_a_built_in_is_said_at_once(client: Driver, built_in: str, input: dict[str, Any]) -> None:
    ended = client.one(f"/builtin/{built_in}", input)
    assert ended["error_code"] == "TASK_ERROR_CODE_INVALID_INPUT"


def test_a_cancelled_run_cancels_its_sub_runs(client: Driver, server: Server) -> None:
    slow = {
        "name": "slow",
        "description": "sleeps",
        "steps": [{"id": "nap", "component": "/python/nap", "input": {"mark": "slow-sub", "seconds": 60}}],
        "output": {"$step": "nap"},
    }
    flow = client.store({"id": "only", "component": "/python/below", "input": {"flow": {"$literal": slow}, "input": {}}})
    top = client("submit", flow_id=flow, input_data={})["summary"]["run_id"]
    server.until_marked("slow-sub")
    assert client.rpc("runs", "CancelRun", run_id=top)["summary"]["status"] == "EXECUTION_STATUS_CANCELLED"
    runs = client.rpc("runs", "ListRuns", root_run_id=top)["runs"]
    assert {run["status"] for run in runs} == {"EXECUTION_STATUS_CANCELLED"}
    assert len(runs) == 2


# --- sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, 1_000_000, 3_900_000])
def test_a_large_answer(client: Driver, size: int) -> None:
    flow = client.store(
        {"id": "big", "component": "/python/big", "input": {"bytes": {"$input": "$.bytes"}}},
        {"id": "keep", "component": "/python/keep", "input": {"data": {"$step": "big", "path": "$.text"}}},
        output={"$step": "keep", "path": "$.blob"},
    )
    text = json.dumps("x" * size).encode()
    assert client.run(flow, {"bytes": size})[0]["output"] == hashlib.sha256(text).hexdigest()


def test_an_answer_above_the_limit_fails_at_once_and_says_so(client: Driver) -> None:
    ended = client.one("/python/big", {"bytes": 9 * 1024 * 1024})
    assert ended["status"] == "EXECUTION_STATUS_FAILED"
    assert "limit" in ended["error_message"]


def test_an_input_above_the_limit_is_refused_and_says_so(client: Driver) -> None:
    flow = client.store({"id": "only", "component": "/python/same", "input": {"$input": "$"}})
    with pytest.raises(CallFailed, match="limit") as refused:
        client.run(flow, {"text": "x" * (9 * 1024 * 1024)})
    assert refused.value.status in {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}
