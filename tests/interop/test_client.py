"""The real client: flows, runs, events, lists."""

from __future__ import annotations

from typing import Any

import pytest
from tests.interop.deployment import CallFailed, Driver, Server

SAME = {"id": "only", "component": "/python/same", "input": {"$input": "$"}}


def test_it_is_healthy(client: Driver) -> None:
    assert client("is_healthy") is True


def test_a_flow_is_stored_under_its_content(client: Driver) -> None:
    assert client.store(SAME) == client.store(dict(reversed(SAME.items())))


def test_a_dry_run_stores_nothing(client: Driver) -> None:
    document = {"name": "dry", "description": "not stored", "steps": [], "output": {"$input": "$"}}
    checked = client("store_flow", flow=document, dry_run=True)
    assert not checked.get("stored")
    with pytest.raises(CallFailed) as refused:
        client.rpc("flows", "GetFlow", flow_id=checked.get("flow_id") or "0" * 64)
    assert refused.value.status == "NOT_FOUND"


def test_an_invalid_flow_is_explained(client: Driver) -> None:
    answer = client("store_flow", flow={"name": "bad", "description": "x", "steps": [{**SAME, "input": {"$step": "nobody"}}]})
    assert not answer.get("stored")
    assert answer["diagnostics"]["num_fatal"] + answer["diagnostics"].get("num_error", 0) >= 1
    assert any("nobody" in one["formatted"] for one in answer["diagnostics"]["diagnostics"])


def test_a_flow_comes_back(client: Driver) -> None:
    flow = client.store(SAME, examples=[{"name": "small", "input": {"n": 1}}])
    answer = client.rpc("flows", "GetFlow", flow_id=flow)
    assert answer["flow_id"] == flow
    assert answer["flow"]["steps"][0]["component"] == "/python/same"
    assert answer["all_examples"][0]["name"] == "small"


def test_a_flow_that_is_deleted_is_gone(client: Driver) -> None:
    flow = client.store({**SAME, "id": "to_delete"})
    client.rpc("flows", "DeleteFlow", flow_id=flow)
    with pytest.raises(CallFailed) as refused:
        client.run(flow, {})
    assert refused.value.status == "NOT_FOUND"


def test_a_batch_keeps_its_order(client: Driver) -> None:
    flow = client.store(SAME)
    assert [one["output"]["n"] for one in client.run(flow, *({"n": n} for n in range(20)))] == list(range(20))


def test_one_bad_item_does_not_stop_the_others(client: Driver) -> None:
    flow = client.store({"id": "only", "component": "/python/same", "input": {"v": {"$input": "$.v"}}})
    good, bad, other = client.run(flow, {"v": 1}, {"w": 2}, {"v": 3})
    assert (good["output"], other["output"]) == ({"v": 1}, {"v": 3})
    assert bad["error_code"] == "TASK_ERROR_CODE_EXPRESSION_FAILURE"


def test_submit_and_wait_later(client: Driver) -> None:
    flow = client.store(SAME)
    run = client("submit", flow_id=flow, input_data={"n": 1})["summary"]["run_id"]
    ended = client("get_run", run_id=run, wait=True)
    assert ended["summary"]["status"] == "EXECUTION_STATUS_COMPLETED"
    assert ended["steps"][0]["output"] == {"n": 1}
    assert client("get_run_items", run_id=run)[0]["output"] == {"n": 1}


def test_a_wait_that_is_over_before_the_run(client: Driver) -> None:
    flow = client.store({"id": "nap", "component": "/python/nap", "input": {"mark": "over", "seconds": 3}})
    created = client("run", flow_id=flow, input_data={}, wait_timeout=1)
    assert created["summary"]["status"] == "EXECUTION_STATUS_RUNNING"
    assert client("get_run", run_id=created["summary"]["run_id"], wait=True)["summary"]["status"] == "EXECUTION_STATUS_COMPLETED"


def test_variables(client: Driver) -> None:
    flow = client.store(SAME, output={"v": {"$variable": "v"}})
    assert client.run(flow, {}, variables={"v": {"n": 1}})[0]["output"] == {"v": {"n": 1}}


def variable_flow(client: Driver) -> str:
    schema = {
        "type": "object",
        "properties": {
            "word": {"type": "string", "env_var": "INTEROP_WORD", "description": "a word"},
            "n": {"type": "number", "default": 4},
        },
        "required": ["word"],
    }
    output = {"word": {"$variable": "word"}, "n": {"$variable": "n"}}
    return client.store(SAME, output=output, schemas={"type": "object", "properties": {"variables": schema}})


def test_variables_are_told(client: Driver) -> None:
    told = client("get_flow_variables", flow_id=variable_flow(client))["variables"]
    assert told["word"]["required"] is True
    assert told["word"]["env_var"] == "INTEROP_WORD"
    assert told["n"]["default_value"] == 4


def test_a_missing_variable_is_refused(client: Driver) -> None:
    with pytest.raises(CallFailed, match="word") as refused:
        client.run(variable_flow(client), {})
    assert refused.value.status == "INVALID_ARGUMENT"


def test_variables_from_the_environment(client: Driver) -> None:
    output = client.run(variable_flow(client), {}, variables={"word": "given"}, populate_variables_from_env=True)[0]["output"]
    assert output == {"word": "given", "n": 4}


def test_overrides(client: Driver) -> None:
    flow = client.store(SAME)
    overrides = {"steps": {"only": {"$type": "merge_patch", "value": {"input": {"$input": None, "instead": True}}}}}
    assert client.run(flow, {"n": 1}, overrides=overrides)[0]["output"] == {"instead": True}


def test_overrides_of_an_unknown_step(client: Driver) -> None:
    with pytest.raises(CallFailed, match="nobody"):
        client.run(client.store(SAME), {}, overrides={"steps": {"nobody": {"$type": "merge_patch", "value": {}}}})


@pytest.mark.parametrize("unknown", ["0" * 64, "nonsense", ""])
def test_an_unknown_flow(client: Driver, unknown: str) -> None:
    with pytest.raises(CallFailed) as refused:
        client.run(unknown, {})
    assert refused.value.status in {"NOT_FOUND", "INVALID_ARGUMENT"}


@pytest.mark.parametrize("unknown", ["019a0000-0000-7000-8000-000000000000", "nonsense"])
def test_an_unknown_run(client: Driver, unknown: str) -> None:
    with pytest.raises(CallFailed) as refused:
        client("get_run", run_id=unknown)
    assert refused.value.status in {"NOT_FOUND", "INVALID_ARGUMENT"}


# --- events -------------------------------------------------------------------------------------------------------------


def names(events: list[dict[str, Any]]) -> list[str]:
    return [next(key for key in event if key not in {"sequence_number", "timestamp"}) for event in events]


def finished(client: Driver) -> str:
    flow = client.store(SAME, {**SAME, "id": "second", "input": {"$step": "only"}})
    run: str = client("run", flow_id=flow, input_data={"n": 1})["summary"]["run_id"]
    return run


def test_events_tell_the_story_in_order(client: Driver) -> None:
    told = names(client("events", run_id=finished(client)))
    assert told[0] == "run_created"
    assert told[-1] == "run_completed"
    assert [name for name in told if name in {"step_started", "step_completed", "item_completed"}] == [
        "step_started", "step_completed", "step_started", "step_completed", "item_completed",
    ]  # fmt: skip


def test_events_resume_where_they_stopped(client: Driver) -> None:
    run = finished(client)
    events = client("events", run_id=run)
    since = int(events[len(events) // 2]["sequence_number"])
    assert client("events", run_id=run, since=since) == [event for event in events if int(event["sequence_number"]) >= since]


def test_events_of_some_types(client: Driver) -> None:
    assert set(names(client("events", run_id=finished(client), event_types=["STATUS_EVENT_TYPE_STEP_COMPLETED"]))) <= {
        "step_completed",
        "run_completed",
    }


def test_events_with_results(client: Driver) -> None:
    run = finished(client)
    with_results = [one["step_completed"] for one in client("events", run_id=run, include_results=True) if "step_completed" in one]
    without = [one["step_completed"] for one in client("events", run_id=run) if "step_completed" in one]
    assert [one["result"] for one in with_results] == [{"n": 1}, {"n": 1}]
    assert all("result" not in one for one in without)


def test_events_of_sub_runs(client: Driver) -> None:
    inner = {"name": "inner", "description": "x", "steps": [], "output": {"$input": "$"}}
    flow = client.store({"id": "eval", "component": "/builtin/eval", "input": {"flow": {"$literal": inner}, "input": 1}})
    run = client("run", flow_id=flow, input_data={})["summary"]["run_id"]
    assert "sub_run_created" in names(client("events", run_id=run, include_sub_runs=True))
    assert "sub_run_created" not in names(client("events", run_id=run, event_types=["STATUS_EVENT_TYPE_STEP_STARTED"]))


def test_events_while_it_runs(client: Driver, server: Server) -> None:
    flow = client.store({"id": "nap", "component": "/python/nap", "input": {"mark": "live", "seconds": 1}})
    run = client("submit", flow_id=flow, input_data={})["summary"]["run_id"]
    assert names(client("events", run_id=run))[-1] == "run_completed"


# --- lists and control --------------------------------------------------------------------------------------------------


def test_components_are_listed_with_schemas(client: Driver) -> None:
    client.one("/python/same", {})
    told = {one["path"]: one for one in client("list_components")["components"]}
    assert told["/python/add"]["input_schema"]["$defs"]["Pair"]["properties"].keys() == {"a", "b"}
    assert "/builtin/map" in told


def test_components_without_schemas(client: Driver) -> None:
    client.one("/python/same", {})
    assert all("input_schema" not in one for one in client("list_components", exclude_schemas=True)["components"])


def test_item_results_appear_one_by_one(client: Driver, server: Server) -> None:
    flow = client.store(
        {"id": "nap", "component": "/python/nap", "input": {"mark": {"$input": "$.mark"}, "seconds": {"$input": "$.seconds"}}}
    )
    run = client("submit", flow_id=flow, input_data=[{"mark": "one", "seconds": 0}, {"mark": "two", "seconds": 20}])["summary"]["run_id"]
    server.until_marked("two")
    while True:
        items = client("get_run_items", run_id=run)
        if items[0]["status"] == "EXECUTION_STATUS_COMPLETED":
            break
    assert items[1]["status"] == "EXECUTION_STATUS_RUNNING"
    counts = client("get_run", run_id=run)["summary"]["items"]
    assert (counts["total"], counts["completed"], counts["running"]) == (2, 1, 1)
    client.rpc("runs", "CancelRun", run_id=run)


def test_a_cancelled_run_stays_cancelled(client: Driver, server: Server) -> None:
    flow = client.store({"id": "nap", "component": "/python/nap", "input": {"mark": "cancelled", "seconds": 60}})
    run = client("submit", flow_id=flow, input_data={})["summary"]["run_id"]
    server.until_marked("cancelled")
    client.rpc("runs", "CancelRun", run_id=run)
    assert client("get_run", run_id=run, wait=True)["summary"]["status"] == "EXECUTION_STATUS_CANCELLED"


def test_a_deleted_run_is_gone(client: Driver) -> None:
    run = finished(client)
    client.rpc("runs", "DeleteRun", run_id=run)
    with pytest.raises(CallFailed) as refused:
        client("get_run", run_id=run)
    assert refused.value.status == "NOT_FOUND"
    assert run not in [one["run_id"] for one in client.rpc("runs", "ListRuns", limit=1000)["runs"]]


def test_a_run_that_runs_is_not_deleted(client: Driver, server: Server) -> None:
    flow = client.store({"id": "nap", "component": "/python/nap", "input": {"mark": "kept", "seconds": 60}})
    run = client("submit", flow_id=flow, input_data={})["summary"]["run_id"]
    with pytest.raises(CallFailed) as refused:
        client.rpc("runs", "DeleteRun", run_id=run)
    assert refused.value.status == "FAILED_PRECONDITION"
    client.rpc("runs", "CancelRun", run_id=run)


def test_runs_are_listed_by_flow_and_status(client: Driver) -> None:
    flow = client.store({**SAME, "id": "listed"}, name="listed-flow")
    run = client("run", flow_id=flow, input_data={})["summary"]["run_id"]
    listed = client.rpc("runs", "ListRuns", flow_name="listed-flow", status="EXECUTION_STATUS_COMPLETED")["runs"]
    assert [one["run_id"] for one in listed] == [run]
    assert client.rpc("runs", "ListRuns", flow_name="listed-flow", status="EXECUTION_STATUS_FAILED").get("runs", []) == []


def test_the_flow_of_a_run(client: Driver) -> None:
    flow = client.store({**SAME, "id": "of_a_run"})
    run = client("run", flow_id=flow, input_data={})["summary"]["run_id"]
    assert client.rpc("runs", "GetRunFlow", run_id=run)["flow_id"] == flow


def test_one_step_of_a_run(client: Driver) -> None:
    detail = client.rpc("runs", "GetStepDetail", run_id=finished(client), step_id="second")["step"]
    assert (detail["step_id"], detail["output"], detail["status"]) == ("second", {"n": 1}, "EXECUTION_STATUS_COMPLETED")
