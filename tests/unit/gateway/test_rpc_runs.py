"""stepflow.v1 RunsService over a real connection: what goes in and comes out, live and afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value
from tests.unit.gateway.door import Client, Door, Workshop, details, one_step, opened, until

from stepmesh.uuid7 import new_run_id
from stepmesh_gateway.translate.values import plain_value

RUNNING, COMPLETED, FAILED, CANCELLED = 1, 2, 3, 4
GATED = one_step("/py/gate")
TWO_STEPS = {
    "name": "two",
    "steps": [
        {"id": "a", "component": "/py/double", "input": {"$input": "$"}},
        {"id": "b", "component": "/py/double", "input": {"$step": "a"}},
    ],
    "output": {"$step": "b"},
}


async def refused(call: Any, status: grpc.StatusCode, code: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), details(caught.value)[0].reason) == (status, code), caught.value.details()
    return caught.value


def plain(value: Value) -> Any:
    return MessageToDict(value)


# --- submit and wait ---


async def test_a_run_that_is_waited_for(client: Client) -> None:
    done = await client.run(one_step(), 21, 4)
    summary = done.summary
    assert (summary.status, summary.flow_name, summary.root_run_id) == (COMPLETED, "one", summary.run_id)
    assert not summary.HasField("parent_run_id")
    assert (summary.items.total, summary.items.completed, summary.items.running) == (2, 2, 0)
    assert [(one.item_index, one.status, plain(one.output)) for one in done.results] == [(0, COMPLETED, 42), (1, COMPLETED, 8)]
    assert summary.created_at.ToMilliseconds() <= done.results[0].completed_at.ToMilliseconds() <= summary.completed_at.ToMilliseconds()
    assert 0 < summary.created_at_seqno < summary.finished_at_seqno


async def test_a_run_that_is_not_waited_for(client: Client, workshop: Workshop) -> None:
    submitted = await client.submit(GATED, "x")
    assert (submitted.summary.status, len(submitted.results)) == (RUNNING, 0)
    assert submitted.summary.items.running == 1
    assert submitted.summary.orchestrator_id
    assert not submitted.summary.HasField("completed_at")
    workshop.let("x")
    done = await client("RunsService/GetRun", run_id=submitted.summary.run_id, wait=True)
    assert done.summary.status == COMPLETED


async def test_a_wait_that_is_over_before_the_run_is(client: Client, workshop: Workshop) -> None:
    found = await client.run(GATED, "x", timeout_secs=0)
    assert (found.summary.status, [one.status for one in found.results]) == (RUNNING, [RUNNING])
    assert not found.results[0].HasField("completed_at")
    again = await client("RunsService/GetRun", run_id=found.summary.run_id, wait=True, timeout_secs=0)
    assert again.summary.status == RUNNING
    workshop.let("x")


async def test_whole_numbers_reach_a_worker_as_integers_and_large_ones_as_they_are(client: Client) -> None:
    sent = {"int": 3, "large": 2**53, "half": 0.5, "huge": 1e300, "list": [1, 2.5, None, True, "x"], "empty": {}}
    done = await client.run(one_step("/py/echo"), sent)
    assert plain(done.results[0].output) == sent
    assert plain((await client.run(one_step("/py/double"), 2)).results[0].output) == 4


async def test_an_input_without_a_kind_is_null(client: Client) -> None:
    flow = (await client.store(one_step("/py/echo"))).flow_id
    done = await client("RunsService/CreateRun", flow_id=flow, input=[Value()], wait=True)
    assert done.results[0].output.WhichOneof("kind") == "null_value"


async def test_an_output_that_a_message_cannot_hold_hides_no_other(door: Door) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    sdk = await door.deployment.client()
    handle = await sdk.submit(one_step("/py/echo"), [1, deep, 3])
    await handle.wait(20)
    items = (await door.client("RunsService/GetRunItems", run_id=handle.id)).results
    assert [(one.status, one.HasField("output")) for one in items] == [(COMPLETED, True), (COMPLETED, False), (COMPLETED, True)]
    assert "nested deeper than" in items[1].error_message
    steps = (await door.client("RunsService/GetRunSteps", run_id=handle.id)).steps
    assert [one.HasField("output") for one in steps] == [True, False, True]
    events = [event async for event in door.client.stream("RunsService/GetRunEvents", run_id=handle.id, include_results=True)]
    ended = sorted(
        (one.item_completed.item_index, one.item_completed.HasField("result")) for one in events if one.HasField("item_completed")
    )
    assert ended == [(0, True), (1, False), (2, True)]


@pytest.mark.parametrize(("levels", "fits"), [(45, True), (46, False)])
async def test_the_deepest_output_that_every_answer_can_hold(client: Client, levels: int, fits: bool) -> None:
    flow = {"name": "deep", "steps": [], "output": [[[[[{"$input": "$"}]]]]]}
    value = Value()
    inner = value
    for _ in range(levels - 5):
        inner = inner.list_value.values.add()
    inner.number_value = 1
    flow_id = (await client.store(flow)).flow_id
    done = await client("RunsService/CreateRun", flow_id=flow_id, input=[value], wait=True)
    assert done.results[0].HasField("output") == fits
    events = [event async for event in client.stream("RunsService/GetRunEvents", run_id=done.summary.run_id, include_results=True)]
    assert [one.item_completed.HasField("result") for one in events if one.HasField("item_completed")] == [fits]


async def test_variables_and_overrides(client: Client) -> None:
    variables = {"type": "object", "properties": {"k": {"type": "integer"}, "d": {"default": 5}}, "required": ["k"]}
    flow = one_step("/py/echo", schemas={"type": "object", "properties": {"variables": variables}})
    flow["output"] = [{"$step": "a"}, {"$variable": "k"}, {"$variable": "d"}]
    overrides = plain_value({"steps": {"a": {"$type": "merge_patch", "value": {"input": 7}}}}).struct_value
    done = await client.run(flow, 1, variables={"k": plain_value(3)}, overrides=overrides)
    assert plain(done.results[0].output) == [7, 3, 5]


async def test_max_concurrency_holds(client: Client, workshop: Workshop) -> None:
    run = await client.submit(GATED, "a", "b", "c", max_concurrency=1)
    assert await workshop.begun.get() == "a"
    workshop.let("a")
    assert await workshop.begun.get() == "b"
    assert workshop.begun.empty()
    workshop.let("b")
    workshop.let("c")
    assert (await client("RunsService/GetRun", run_id=run.summary.run_id, wait=True)).summary.status == COMPLETED


async def test_a_failure_has_its_code_and_message(client: Client) -> None:
    done = await client.run(one_step("/py/boom"), None)
    item = done.results[0]
    assert (done.summary.status, item.status, item.error_code) == (FAILED, FAILED, 3)
    assert "the boiler is cold" in item.error_message
    assert not item.HasField("output")
    step = (await client("RunsService/GetRun", run_id=done.summary.run_id)).steps[0]
    assert (step.status, step.error_code, step.error_message) == (FAILED, 3, item.error_message)


async def test_a_client_that_goes_away_ends_its_wait(door: Door) -> None:
    run = (await door.client.submit(GATED, "x")).summary.run_id
    kind, call, _ = door.client.open("RunsService/GetRun")
    waiting = call(kind(run_id=run, wait=True))
    asks = lambda: [task for task in asyncio.all_tasks() if "Requests.get_run" in repr(task)]  # noqa: E731
    await until(lambda: bool(asks()))
    waiting.cancel()
    await until(lambda: not asks())
    door.workshop.let("x")


async def test_a_gateway_that_stops_ends_waits_as_if_their_time_were_over() -> None:
    async with opened() as door:
        run = (await door.client.submit(GATED, "x")).summary.run_id
        waiting = asyncio.ensure_future(door.client("RunsService/GetRun", run_id=run, wait=True))
        stream = door.client.stream("RunsService/GetRunEvents", run_id=run)
        await stream.read()
        await until(lambda: any("Requests.get_run" in repr(task) for task in asyncio.all_tasks()))
        door.gateway.operations.close()
        assert (await waiting).summary.status == RUNNING

        async def rest() -> None:
            while await stream.read() is not grpc.aio.EOF:
                pass

        await refused(rest(), grpc.StatusCode.UNAVAILABLE, "SM-7007")
        door.workshop.let("x")


# --- items, steps, flow ---


async def test_items_appear_one_by_one_in_either_order(client: Client, workshop: Workshop) -> None:
    run = (await client.submit(GATED, "a", "b", "c")).summary.run_id
    for _ in range(3):
        await workshop.begun.get()
    workshop.let("c")

    async def ended(count: int) -> Any:
        async with asyncio.timeout(20):
            while True:
                items = (await client("RunsService/GetRunItems", run_id=run)).results
                if sum(one.status == COMPLETED for one in items) == count:
                    return items

    assert [one.status for one in await ended(1)] == [RUNNING, RUNNING, COMPLETED]
    live = (await client("RunsService/GetRun", run_id=run)).summary
    assert (live.status, live.items.total, live.items.completed, live.items.running) == (RUNNING, 3, 1, 2)
    workshop.let("a")
    await ended(2)
    by_completion = (await client("RunsService/GetRunItems", run_id=run, result_order=2)).results
    assert [one.item_index for one in by_completion] == [2, 0, 1]
    workshop.let("b")
    await ended(3)


async def test_items_of_a_batch_larger_than_a_page(client: Client) -> None:
    flow = {"name": "f", "steps": [], "output": {"$input": "$"}}
    run = (await client.run(flow, *range(2_500))).summary.run_id
    items = (await client("RunsService/GetRunItems", run_id=run)).results
    assert [plain(one.output) for one in items] == list(range(2_500))


async def test_steps_of_all_items_or_of_one(client: Client) -> None:
    run = (await client.run(TWO_STEPS, 1, 2)).summary.run_id
    steps = (await client("RunsService/GetRunSteps", run_id=run)).steps
    assert [(one.item_index, one.step_index, one.step_id, plain(one.output)) for one in steps] == [
        (0, 0, "a", 2), (0, 1, "b", 4), (1, 0, "a", 4), (1, 1, "b", 8),
    ]  # fmt: skip
    assert all(one.component == "/py/double" and one.status == COMPLETED and one.journal_seqno for one in steps)
    assert all(one.started_at.ToMilliseconds() <= one.completed_at.ToMilliseconds() == one.updated_at.ToMilliseconds() for one in steps)
    assert list((await client("RunsService/GetRunSteps", run_id=run, item_index=1)).steps) == list(steps[2:])
    assert list((await client("RunsService/GetRun", run_id=run)).steps) == list(steps)
    assert (await client("RunsService/GetStepDetail", run_id=run, step_id="b", item_index=1)).step == steps[3]
    assert (await client("RunsService/GetStepDetail", run_id=run, step_id="a")).step == steps[0]


async def test_a_step_as_it_was(client: Client) -> None:
    run = (await client.run(TWO_STEPS, 1)).summary.run_id
    events = [event async for event in client.stream("RunsService/GetRunEvents", run_id=run)]
    started = next(event for event in events if event.step_started.step_id == "a")
    ended = next(event for event in events if event.step_completed.step_id == "a")
    then = (await client("RunsService/GetStepDetail", run_id=run, step_id="a", asof=started.sequence_number)).step
    assert (then.status, then.HasField("output")) == (RUNNING, False)
    after = (await client("RunsService/GetStepDetail", run_id=run, step_id="a", asof=ended.sequence_number)).step
    assert (after.status, plain(after.output)) == (COMPLETED, 2)
    late = (await client("RunsService/GetStepDetail", run_id=run, step_id="a", asof=2**64 - 1)).step
    assert late.status == COMPLETED
    too_early = client("RunsService/GetStepDetail", run_id=run, step_id="b", asof=started.sequence_number)
    await refused(too_early, grpc.StatusCode.NOT_FOUND, "SM-7005")


async def test_get_run_shows_the_first_steps_of_a_large_batch(client: Client) -> None:
    text = "x" * 500_000
    run = (await client.run(one_step("/py/echo"), *[text] * 10)).summary.run_id
    found = await client("RunsService/GetRun", run_id=run)
    assert (found.summary.items.completed, len(found.steps)) == (10, 6)
    assert len((await client("RunsService/GetRunSteps", run_id=run)).steps) == 10


async def test_the_flow_of_a_run(client: Client) -> None:
    stored = await client.store(TWO_STEPS)
    run = (await client.run(TWO_STEPS, 1)).summary.run_id
    found = await client("RunsService/GetRunFlow", run_id=run)
    assert found.flow_id == stored.flow_id
    assert MessageToDict(found.flow) == TWO_STEPS


async def test_the_flow_of_a_run_of_a_blob(client: Client) -> None:
    blob = (await client("BlobService/PutBlob", json_data=plain_value(TWO_STEPS), blob_type="flow")).blob_id
    done = await client("RunsService/CreateRun", flow_id=blob, input=[plain_value(1)], wait=True)
    assert plain(done.results[0].output) == 4
    assert MessageToDict((await client("RunsService/GetRunFlow", run_id=done.summary.run_id)).flow) == TWO_STEPS


# --- list, cancel, delete ---


async def test_lists(client: Client, workshop: Workshop) -> None:
    first = (await client.run(one_step(), 1)).summary.run_id
    failed = (await client.run(one_step("/py/boom", name="other"), None)).summary.run_id
    live = (await client.submit(GATED, "x")).summary.run_id

    async def listed(**fields: Any) -> list[str]:
        return [run.run_id for run in (await client("RunsService/ListRuns", **fields)).runs]

    assert await listed() == [live, failed, first]
    assert await listed(status=COMPLETED) == [first]
    assert await listed(status=RUNNING) == [live]
    assert await listed(status=0) == [live, failed, first]
    assert await listed(status=5) == []
    assert await listed(flow_name="other") == [failed]
    assert await listed(limit=2) == [live, failed]
    assert await listed(limit=1, offset=1) == [failed]
    assert await listed(limit=0) == []
    assert await listed(offset=2**32 - 1) == []
    assert await listed(root_run_id=first.upper()) == [first]
    assert await listed(parent_run_id=first) == []
    assert await listed(roots_only=True, max_depth=0) == [live, failed, first]
    workshop.let("x")


async def test_a_list_longer_than_a_page(client: Client) -> None:
    flow = (await client.store({"name": "f", "steps": [], "output": None})).flow_id
    made = [(await client("RunsService/CreateRun", flow_id=flow, input=[Value()])).summary.run_id for _ in range(30)]
    pages = [await client("RunsService/ListRuns", limit=25, offset=offset) for offset in (0, 25)]
    runs = [run for page in pages for run in page.runs]
    assert sorted(run.run_id for run in runs) == sorted(made)
    times = [run.created_at.ToMilliseconds() for run in runs]
    assert times == sorted(times, reverse=True)


async def test_sub_runs_are_listed_with_their_parent(client: Client) -> None:
    child = (await client.store(one_step())).flow_id
    parent = one_step("/builtin/eval", steps=[{"id": "e", "component": "/builtin/eval", "input": {"flow_id": child, "input": 3}}])
    parent["output"] = {"$step": "e"}
    root = (await client.run(parent, None)).summary.run_id
    (sub,) = (await client("RunsService/ListRuns", parent_run_id=root)).runs
    assert (sub.root_run_id, sub.parent_run_id, sub.status) == (root, root, COMPLETED)
    assert {run.run_id for run in (await client("RunsService/ListRuns", root_run_id=root)).runs} == {sub.run_id, root}
    assert [run.run_id for run in (await client("RunsService/ListRuns", root_run_id=root, roots_only=True)).runs] == [root]


async def test_cancel_is_real(client: Client, workshop: Workshop) -> None:
    run = (await client.submit(GATED, "x")).summary.run_id
    await workshop.begun.get()
    cancelled = (await client("RunsService/CancelRun", run_id=run)).summary
    assert (cancelled.status, cancelled.items.cancelled) == (CANCELLED, 1)
    workshop.let("x")
    assert (await client("RunsService/GetRun", run_id=run, wait=True)).summary.status == CANCELLED
    item = (await client("RunsService/GetRunItems", run_id=run)).results[0]
    assert (item.status, item.error_code) == (CANCELLED, 4)


async def test_cancelling_a_run_that_is_over_changes_nothing(client: Client) -> None:
    run = (await client.run(one_step(), 1)).summary.run_id
    assert (await client("RunsService/CancelRun", run_id=run)).summary.status == COMPLETED


async def test_a_deleted_run_is_gone(client: Client, workshop: Workshop) -> None:
    run = (await client.submit(GATED, "x")).summary.run_id
    await refused(client("RunsService/DeleteRun", run_id=run), grpc.StatusCode.FAILED_PRECONDITION, "SM-5012")
    workshop.let("x")
    await client("RunsService/GetRun", run_id=run, wait=True)
    await client("RunsService/DeleteRun", run_id=run)
    for name in ("GetRun", "GetRunItems", "GetRunSteps", "GetRunFlow", "CancelRun", "DeleteRun"):
        await refused(client(f"RunsService/{name}", run_id=run), grpc.StatusCode.NOT_FOUND, "SM-5003")
    assert not (await client("RunsService/ListRuns")).runs


# --- refusals ---


@pytest.mark.parametrize("name", ["GetRun", "DeleteRun", "GetRunItems", "GetRunFlow", "GetRunSteps", "GetStepDetail", "CancelRun"])
async def test_runs_that_are_not_there(client: Client, name: str) -> None:
    await refused(client(f"RunsService/{name}", run_id=new_run_id()), grpc.StatusCode.NOT_FOUND, "SM-5003")
    problem = await refused(client(f"RunsService/{name}", run_id="no-id"), grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")
    violations = details(problem)[1]
    assert violations is not None
    assert [one.field for one in violations.field_violations] == ["run_id"]


async def test_events_of_a_run_that_is_not_there(client: Client) -> None:
    await refused(client.stream("RunsService/GetRunEvents", run_id=new_run_id()).read(), grpc.StatusCode.NOT_FOUND, "SM-5003")
    await refused(client.stream("RunsService/GetRunEvents", run_id="x").read(), grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")


async def test_a_flow_that_is_not_there(client: Client) -> None:
    await refused(client("RunsService/CreateRun", flow_id="0" * 64, input=[Value()]), grpc.StatusCode.NOT_FOUND, "SM-5004")
    await refused(client("RunsService/CreateRun", flow_id="flow", input=[Value()]), grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["input", "variables", "overrides"])
async def test_numbers_that_json_does_not_have_are_refused_with_their_path(client: Client, field: str, number: float) -> None:
    flow = (await client.store(one_step("/py/echo"))).flow_id
    inner = plain_value({"a": [1, 2]})
    inner.struct_value.fields["a"].list_value.values[1].number_value = number
    fields: dict[str, Any] = {
        "input": {"input": [Value(), inner]},
        "variables": {"variables": {"v": inner}},
        "overrides": {"overrides": inner.struct_value},
    }[field]
    problem = await refused(client("RunsService/CreateRun", flow_id=flow, **fields), grpc.StatusCode.INVALID_ARGUMENT, "SM-7001")
    assert {"input": "at input[1].a[1]", "variables": "at variables.v.a[1]", "overrides": "at overrides.a[1]"}[field] in problem.details()


async def test_an_input_that_does_not_match_names_each_place(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    flow = one_step("/py/echo", schemas={"type": "object", "properties": {"input": schema}})
    problem = await refused(client.submit(flow, {"n": "x"}), grpc.StatusCode.INVALID_ARGUMENT, "SM-5001")
    violations = details(problem)[1]
    assert violations is not None
    assert [one.field for one in violations.field_violations] == ["$.n"]


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("RunsService/ListRuns", {"status": 77}, "status"),
        ("RunsService/ListRuns", {"root_run_id": "x"}, "root_run_id"),
        ("RunsService/ListRuns", {"parent_run_id": ""}, "parent_run_id"),
        ("RunsService/GetRunItems", {"run_id": new_run_id(), "result_order": 9}, "result_order"),
    ],
)
async def test_fields_that_cannot_be(client: Client, name: str, fields: dict[str, Any], field: str) -> None:
    problem = await refused(client(name, **fields), grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")
    violations = details(problem)[1]
    assert violations is not None
    assert [one.field for one in violations.field_violations] == [field]
