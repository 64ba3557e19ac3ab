"""Sub-runs that workers of stepflow.v1 start: linked to their step, found again, cancelled with it, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.gateway.door import Door, one_step, opened
from tests.unit.gateway.puller import Puller, given, pulling, status_of

from stepmesh_broker.pb.stepflow.v1 import runs_pb2
from stepmesh_gateway.translate.values import plain_value

PARENT, CHILD = one_step("/py/work"), one_step("/py/other")


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Without a worker."""
    async with opened(workers=0) as one:
        yield one


@pytest.fixture
async def worker(door: Door) -> AsyncIterator[Puller]:
    async with pulling(door.gateway) as one:
        yield one


async def sub_run(door: Door, task: Any, flow: str, *inputs: Any, key: str | None = None, root: str | None = None, **fields: Any) -> Any:
    """SubmitRun, as the real worker calls it."""
    request = runs_pb2.CreateRunRequest(flow_id=flow, input=[plain_value(one) for one in inputs], **fields)
    more: dict[str, Any] = {} if key is None else {"subflow_key": key}
    return await door.client(
        "OrchestratorService/SubmitRun", run_request=request, root_run_id=task.context.root_run_id if root is None else root, **more
    )


async def begun(door: Door, worker: Puller, flow: dict[str, Any] = PARENT) -> tuple[str, Any, str]:
    """A run, its claimed task, and a stored flow for its sub-run."""
    run = (await door.client.submit(flow, 1)).summary.run_id
    return run, await worker.begin(), (await door.client.store(CHILD)).flow_id


async def test_a_sub_run_is_linked_and_its_results_come_with_its_end(door: Door, worker: Puller) -> None:
    run, task, flow = await begun(door, worker)
    waiting = asyncio.ensure_future(sub_run(door, task, flow, "a", "b", wait=True))
    for _ in range(2):
        inner = await worker.begin()  # a waiting task takes no credit
        assert inner.execute.component_id == "other"
        assert inner.context.root_run_id.startswith(f"{run}!")
        await worker.complete(inner, f"done {given(inner)}")
    told = await waiting
    assert (told.status, told.root_run_id, told.parent_run_id, told.flow_id) == (2, run, run, flow)
    assert [one.output.string_value for one in told.results] == ["done a", "done b"]
    await worker.complete(task, "parent")
    listing = await door.client("RunsService/ListRuns", parent_run_id=run)
    assert [one.run_id for one in listing.runs] == [told.run_id]
    assert (await door.client("RunsService/GetRun", run_id=run, wait=True)).summary.status == 2


async def test_a_later_attempt_finds_the_sub_run_of_an_earlier_one(door: Door, worker: Puller) -> None:
    retried = {"id": "a", "component": "/py/work", "onError": {"action": "retry", "maxRetries": 2}}
    _, task, flow = await begun(door, worker, {"name": "r", "steps": [retried], "output": {"$step": "a"}})
    first = [await sub_run(door, task, flow, "x"), await sub_run(door, task, flow, "x"), await sub_run(door, task, flow, "y")]
    keyed = await sub_run(door, task, flow, "z", key="mine")
    assert len({one.run_id for one in (*first, keyed)}) == 4, "equal ones within an attempt are told apart"
    inners = [await worker.begin() for _ in range(4)]
    await worker.fail(task, 3, "once more")
    again = await worker.begin()
    assert again.execute.attempt == 2
    second = [await sub_run(door, again, flow, "x"), await sub_run(door, again, flow, "x"), await sub_run(door, again, flow, "y")]
    assert [one.run_id for one in second] == [one.run_id for one in first]
    assert (await sub_run(door, again, flow, "other input", key="mine")).run_id == keyed.run_id
    assert (await sub_run(door, again, flow, "new")).run_id not in {one.run_id for one in (*first, keyed)}
    for inner in inners:
        await worker.complete(inner)


async def test_a_cancelled_parent_takes_its_sub_run_along(door: Door, worker: Puller) -> None:
    run, task, flow = await begun(door, worker)
    waiting = asyncio.ensure_future(sub_run(door, task, flow, "a", wait=True))
    inner = await worker.begin()
    await door.client("RunsService/CancelRun", run_id=run)
    told = await asyncio.wait_for(waiting, 10)
    assert told.status == 4
    assert await worker.beat(inner) == "abort"
    status, text = await status_of(sub_run(door, task, flow, "too late"))
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert "SM-5007" in text


@pytest.mark.parametrize(
    "around",
    [
        {"component": "/builtin/eval", "input": {"flow": {"$literal": PARENT}, "input": 1}},
        {"component": "/builtin/map", "input": {"workflow": {"$literal": PARENT}, "items": [1]}},
        {"component": "/builtin/iterate", "input": {"flow": {"$literal": PARENT}, "initial_input": 1}},
    ],
    ids=["eval", "map", "iterate"],
)
async def test_inside_a_sub_run_of_a_flow(door: Door, worker: Puller, around: dict[str, Any]) -> None:
    outer = {"name": "outer", "steps": [{"id": "o", **around}], "output": {"$step": "o"}}
    run, task, flow = await begun(door, worker, outer)
    waiting = asyncio.ensure_future(sub_run(door, task, flow, "a", wait=True))
    inner = await worker.begin()
    await worker.complete(inner, 7)
    told = await waiting
    assert told.root_run_id == run
    assert told.parent_run_id == task.execute.observability.run_id != run
    assert told.results[0].output.number_value == 7
    await worker.complete(task, {"result": 7})
    assert (await door.client("RunsService/GetRun", run_id=run, wait=True)).summary.status == 2


async def test_without_the_mark_it_is_a_run_of_its_own(door: Door, worker: Puller) -> None:
    run, task, flow = await begun(door, worker)
    for root in ("", run):
        told = await sub_run(door, task, flow, "a", root=root)
        assert told.root_run_id == told.run_id
        assert not told.HasField("parent_run_id")
        await worker.complete(await worker.begin())


async def test_a_flow_that_is_a_blob(door: Door, worker: Puller) -> None:
    _, task, _ = await begun(door, worker)
    blob = (await door.client("BlobService/PutBlob", json_data=plain_value(CHILD), blob_type="flow")).blob_id
    waiting = asyncio.ensure_future(sub_run(door, task, blob, "a", wait=True))
    await worker.complete(await worker.begin(), "from a blob")
    assert (await waiting).results[0].output.string_value == "from a blob"


async def test_waiting_ends_with_its_time(door: Door, worker: Puller) -> None:
    _, task, flow = await begun(door, worker)
    told = await sub_run(door, task, flow, "a", wait=True, timeout_secs=1)
    assert told.status == 1
    assert [one.status for one in told.results] == [1]
    inner = await worker.begin()
    found = asyncio.ensure_future(
        door.client("OrchestratorService/GetRun", run_id=told.run_id, wait=True, include_results=True, root_run_id=task.context.root_run_id)
    )
    await worker.complete(inner, "at last")
    assert (await found).results[0].output.string_value == "at last"
    plain = await door.client("OrchestratorService/GetRun", run_id=told.run_id)
    assert (plain.status, len(plain.results)) == (2, 0)


async def test_a_sub_run_that_fails(door: Door, worker: Puller) -> None:
    _, task, flow = await begun(door, worker)
    waiting = asyncio.ensure_future(sub_run(door, task, flow, "a", wait=True))
    await worker.fail(await worker.begin(), 2, "bad")
    told = await waiting
    assert told.status == 3
    assert (told.results[0].error_code, told.results[0].error_message) == (2, "bad")


async def test_what_cannot_be_submitted(door: Door, worker: Puller) -> None:
    _, task, flow = await begun(door, worker)
    unknown = sub_run(door, task, "0" * 64, "a")
    assert (await status_of(unknown))[0] is grpc.StatusCode.NOT_FOUND
    assert (await status_of(sub_run(door, task, flow, "a", root="a!b")))[0] is grpc.StatusCode.INVALID_ARGUMENT
    missing = door.client("OrchestratorService/GetRun", run_id="01900000-0000-7000-8000-000000000000", wait=True)
    assert (await status_of(missing))[0] is grpc.StatusCode.NOT_FOUND
