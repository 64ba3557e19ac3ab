"""The life of a task with a worker of stepflow.v1: claims, heartbeats, results, deaths of workers, gateways and orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
from tests.unit.gateway.door import Door, one_step, opened
from tests.unit.gateway.puller import Puller, given, pulling, status_of

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.settings import Limits

WORK = one_step("/py/work")


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Without a worker."""
    async with opened(workers=0) as one:
        yield one


async def ended(door: Door, run: str) -> Any:
    """The first item, once the run is over."""
    await door.client("RunsService/GetRun", run_id=run, wait=True)
    return (await door.client("RunsService/GetRunItems", run_id=run)).results[0]


async def error_of(door: Door, run: str) -> Any:
    """Its error as JSON."""
    await ended(door, run)
    items = await door.gateway.operations.requests.ask(api.GetItems(RunId(run)), api.Items)
    return msgspec.json.decode(items.results[0].result)["error"]


async def begun(door: Door, worker: Puller, flow: Any = WORK, value: Any = 1) -> tuple[str, Any]:
    """A run whose task the worker has claimed."""
    run = (await door.client.submit(flow, value)).summary.run_id
    return run, await worker.begin()


# --- results ------------------------------------------------------------------------------------------------------


async def test_an_error_keeps_code_message_and_data(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        data = {"exception_type": "Cold", "nested": {"n": 1, "list": [1.5, None]}}
        await worker.fail(task, 2, "the boiler is cold", data)
        error = await error_of(door, run)
        assert error == {"code": "INVALID_INPUT", "message": "the boiler is cold", "data": data}


async def test_an_error_without_a_code_is_the_component_s(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.fail(task, 0, "x" * 100_000)
        error = await error_of(door, run)
        assert error["code"] == "COMPONENT_FAILED"
        assert error["message"].startswith("x" * 65_536 + "… (100000 characters)")
        assert "data" not in error or error["data"] is None


async def test_data_that_is_too_large_or_no_json_leaves_a_note(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.fail(task, 3, "large", {"x": "y" * 300_000})
        assert "above the limit of 262144" in (await error_of(door, run))["data"]["note"]


async def test_an_output_above_the_limit_fails_the_attempt_at_once() -> None:
    async with opened(Limits(payload_bytes=1000), workers=0) as door, pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.complete(task, "x" * 998)
        assert (await ended(door, run)).status == 2
        run, task = await begun(door, worker)
        await worker.complete(task, "x" * 1_000_000)
        error = await error_of(door, run)
        assert error["code"] == "WORKER_ERROR"
        assert "the output has 1000002 bytes, above the limit of 1000" in error["message"]
        await worker.nothing(0.2)


async def test_an_output_that_is_no_json(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.complete(task, {"deep": [1.0, float("inf")]})
        error = await error_of(door, run)
        assert error["code"] == "WORKER_ERROR"
        assert "$.deep[1] is inf" in error["message"]


async def test_an_input_that_is_too_large_for_a_message_fails_the_task() -> None:
    async with opened(Limits(assignment_bytes=10_000), workers=0) as door, pulling(door.gateway) as worker:
        run = (await door.client.submit(WORK, "x" * 20_000)).summary.run_id
        error = await error_of(door, run)
        assert error["code"] == "INVALID_INPUT"
        assert "limits.assignment_bytes is 10,000" in error["message"]
        run, task = await begun(door, worker, value="small")
        await worker.complete(task)
        assert (await ended(door, run)).status == 2


async def test_an_input_that_protobuf_cannot_hold_fails_the_task(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        deep: Any = 1
        for _ in range(40):
            deep = {"d": deep}
        flow = {"name": "d", "steps": [{"id": "a", "component": "/py/work", "input": {"$literal": deep}}], "output": {"$step": "a"}}
        handle = await (await door.deployment.client()).submit(flow, [1])
        error = await error_of(door, handle.id)
        assert error["code"] == "INVALID_INPUT"
        assert "nested deeper" in error["message"]
        _, task = await begun(door, worker)
        await worker.complete(task)


async def test_of_two_results_the_first_counts(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.complete(task, "first")
        status, text = await status_of(_repeated(worker, task))
        assert status is grpc.StatusCode.NOT_FOUND
        assert "SM-7202" in text
        assert (await ended(door, run)).output.string_value == "first"


async def _repeated(worker: Puller, task: Any) -> None:
    """Until the shard has heard of the first one, a second one is taken and dropped there."""
    for _ in range(100):
        await worker.complete(task, "second")


@pytest.mark.parametrize("id", ["", "x", "a.b.c.d.e.f.g", "01900000-0000-7000-8000-000000000001.1.1.99999999999999999999.0.0.j"])
async def test_what_is_no_task_id(door: Door, id: str) -> None:
    call = door.client("OrchestratorService/TaskHeartbeat", task_id=id, worker_id="w")
    assert (await status_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_task_that_nobody_knows(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        _, task = await begun(door, worker)
        id = TaskId.parse(task.task_id)
        strange = str(id._replace(ref=msgspec.structs.replace(id.ref, attempt=7)))
        other = type(task)(task_id=strange)
        assert (await status_of(worker.complete(other)))[0] is grpc.StatusCode.NOT_FOUND
        assert await worker.beat(other) == "abort"
        no_result = door.client("OrchestratorService/CompleteTask", task_id=task.task_id)
        assert (await status_of(no_result))[0] is grpc.StatusCode.INVALID_ARGUMENT
        await worker.complete(task)


# --- claims and heartbeats ----------------------------------------------------------------------------------------


async def test_a_task_that_another_worker_has(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        _, task = await begun(door, worker)
        assert await worker.beat(task, "somebody else") == "abort"
        assert await worker.beat(task) == "in progress"
        await worker.complete(task)


async def test_progress_is_told(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        await worker.beat(task, progress=0.25, status_message="warming up")
        async with asyncio.timeout(10):
            while not any(step.fraction for step in (await _steps(door, run))):
                await asyncio.sleep(0.05)
        step = (await _steps(door, run))[0]
        assert step.fraction == 0.25
        assert step.details == b'{"message":"warming up"}'
        await worker.complete(task)


async def _steps(door: Door, run: str) -> list[api.StepStatus]:
    return [step async for step in door.gateway.operations.steps(RunId(run))]


async def test_a_cancelled_run_s_task_is_to_be_aborted(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run, task = await begun(door, worker)
        waiting = (await door.client.submit(WORK, 2)).summary.run_id
        unbegun = await worker.next()
        await door.client("RunsService/CancelRun", run_id=run)
        await door.client("RunsService/CancelRun", run_id=waiting)
        assert await worker.beat(task) == "abort"
        assert await worker.beat(unbegun) == "abort"
        assert (await status_of(worker.complete(task)))[0] is grpc.StatusCode.NOT_FOUND
        _, task = await begun(door, worker)
        await worker.complete(task)


async def test_a_step_s_time_limit_counts_from_the_claim(door: Door) -> None:
    limited = {"id": "a", "component": "/py/work", "timeout": "300ms", "onError": {"action": "useDefault", "defaultValue": "late"}}
    flow = {"name": "t", "steps": [limited], "output": {"$step": "a"}, "retry": {"transportMaxRetries": 0}}
    async with pulling(door.gateway) as worker:
        run = (await door.client.submit(flow, 1)).summary.run_id
        task = await worker.next()
        await asyncio.sleep(0.5)  # a task that waits in a worker has all of its time left
        assert await worker.beat(task) == "in progress"
        async with asyncio.timeout(5):
            while await worker.beat(task) == "in progress":
                await asyncio.sleep(0.05)
        again = await worker.begin()
        assert again.execute.attempt == 2
        await worker.complete(again, "in time")
        assert (await ended(door, run)).output.string_value == "in time"
        assert (await status_of(worker.complete(task, "too late")))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.slow
async def test_silence_of_a_connected_worker_is_not_death_and_of_a_lost_one_is(door: Door) -> None:
    """A synchronous component blocks the worker's loop: no heartbeat comes for longer than a lease."""
    async with pulling(door.gateway, "blocked") as blocked, pulling(door.gateway, "dying") as dying, pulling(door.gateway, "torn") as torn:
        runs, tasks = {}, {}
        for worker in (blocked, dying, torn):
            runs[worker.worker], task = await begun(door, worker, value=worker.worker)
            tasks[worker.worker] = task
            assert given(task) == worker.worker
            if worker is not torn:
                continue
            await asyncio.sleep(1.5)  # all are claimed at their shard by now
            await torn.close()
            await dying.close()
            for _ in range(4):
                assert await torn.beat(task) == "in progress", "its stream is torn, but it is heard"
                await asyncio.sleep(2.0)
            await torn.complete(task, "torn")
        assert (await ended(door, runs["torn"])).output.string_value == "torn"
        again = await blocked.next(8.0)
        assert given(again) == "dying", "nobody heard the dying one"
        assert again.execute.attempt == 2
        await blocked.beat(again)
        await blocked.nothing(0.3)
        await blocked.complete(again, "again")
        assert (await ended(door, runs["dying"])).output.string_value == "again"
        await blocked.complete(tasks["blocked"], "at last")
        assert (await ended(door, runs["blocked"])).output.string_value == "at last"
