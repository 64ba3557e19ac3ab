"""Workers of stepflow.v1: what their stream gives them, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.gateway.door import Door, one_step, opened
from tests.unit.gateway.puller import given, pulling, status_of

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Pool
from stepmesh_gateway.identity import split_root
from stepmesh_gateway.settings import Limits


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Without a worker."""
    async with opened(workers=0) as one:
        yield one


WORK = one_step("/py/work")


async def result_of(door: Door, run: str, index: int = 0) -> Any:
    answer = await door.client("RunsService/GetRun", run_id=run, wait=True)
    assert answer.summary.status != 1, "it still runs"
    return (await door.client("RunsService/GetRunItems", run_id=run)).results[index]


async def frames_left(door: Door) -> int:
    depth = await (await door.deployment.connect()).depth(Pool("py"))
    return depth.ready + depth.in_flight


async def test_a_worker_gets_one_task_more_than_it_has_begun(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run = (await door.client.submit(WORK, *range(5))).summary.run_id
        tasks = [await worker.next()]
        await worker.nothing()
        for _ in range(3):
            assert await worker.beat(tasks[-1]) == "in progress"
            tasks.append(await worker.next())
            await worker.nothing(0.2)
        await worker.complete(tasks[0], "first")
        await worker.nothing(0.2)  # it has begun two, and one waits
        await worker.complete(tasks[3], "not begun")  # a result without a claim
        tasks.append(await worker.next())
        for task in tasks[1:3] + tasks[4:]:
            await worker.complete(task, given(task))
        assert (await result_of(door, run)).status == 2
        assert sorted(given(task) for task in tasks) == [0, 1, 2, 3, 4]
    await until_settled(door)


async def until_settled(door: Door) -> None:
    async with asyncio.timeout(10):
        while await frames_left(door):
            await asyncio.sleep(0.02)


async def test_what_a_task_says(door: Door) -> None:
    async with pulling(door.gateway, offers={"/work": "the-work"}) as worker:
        run = (await door.client.submit(WORK, {"n": 1, "deep": [None, True, "ä"]})).summary
        task = await worker.next()
        assert task.execute.component_id == "the-work"
        assert given(task) == {"n": 1, "deep": [None, True, "ä"]}
        assert task.execute.attempt == 1
        assert dict(task.execute.path_params) == {}
        assert task.heartbeat_interval_secs == 2
        assert task.context.orchestrator_service_url == door.gateway.address == f"127.0.0.1:{door.gateway.port}"
        root, id = split_root(task.context.root_run_id)
        assert root == run.run_id
        assert str(id) == task.task_id
        told = task.execute.observability
        assert (told.run_id, told.flow_id, told.step_id) == (run.run_id, run.flow_id, "a")
        await worker.fail(task, 7, "again")


async def test_an_address_that_workers_are_told() -> None:
    async with opened(workers=0, advertised="gateway.example:7840") as door, pulling(door.gateway, silent=True) as worker:
        await door.client.submit(WORK, 1)
        task = await worker.next()
        assert task.context.orchestrator_service_url == "gateway.example:7840"
        assert worker.questions[0].context.orchestrator_service_url == "gateway.example:7840"
        assert task.execute.component_id == "work"


async def test_the_trace_of_a_run_reaches_its_worker(door: Door) -> None:
    client = await door.deployment.client()
    handle = await client.submit(WORK, [1])
    assert handle.id
    async with pulling(door.gateway) as worker:
        told = (await worker.next()).execute.observability
        assert told.HasField("trace_id") == told.HasField("span_id")


async def test_an_attempt_knows_its_number_and_has_a_new_id(door: Door) -> None:
    flow = {
        "name": "r",
        "steps": [{"id": "a", "component": "/py/work", "onError": {"action": "retry", "maxRetries": 2}}],
        "output": {"$step": "a"},
    }
    async with pulling(door.gateway) as worker:
        run = (await door.client.submit(flow, None)).summary.run_id
        ids = []
        for attempt in (1, 2):
            task = await worker.begin()
            assert task.execute.attempt == attempt
            ids.append(task.task_id)
            await worker.fail(task, 3, "no")
        await worker.complete(await worker.begin())
        assert len({*ids}) == 2
        assert (await result_of(door, run)).status == 2


async def test_an_unknown_queue_is_refused_by_name() -> None:
    async with opened(workers=0) as door:
        door.gateway.operations.queues = _two_queues  # type: ignore[method-assign]
        call = door.client.stream("TasksService/PullTasks", queue_name="nope", worker_id="w")
        status, text = await status_of(call.read())
        assert status is grpc.StatusCode.NOT_FOUND
        assert "SM-7201 there is no queue 'nope'; known queues: py" in text
        call = door.client.stream("TasksService/PullTasks", queue_name="builtin", worker_id="w")
        assert (await status_of(call.read()))[0] is grpc.StatusCode.NOT_FOUND
        async with pulling(door.gateway) as worker:
            assert worker.questions


async def _two_queues() -> api.Queues:
    return api.Queues([api.Queue(Pool("py"), "python", "grpc"), api.Queue(Pool("builtin"), "b", "builtin")], False)


async def test_a_worker_without_an_id_is_refused(door: Door) -> None:
    call = door.client.stream("TasksService/PullTasks", queue_name="py")
    status, text = await status_of(call.read())
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "worker_id is empty" in text


async def test_streams_of_one_worker_are_limited() -> None:
    async with opened(Limits(streams_per_worker=2), workers=0) as door:
        async with pulling(door.gateway), pulling(door.gateway):
            call = door.client.stream("TasksService/PullTasks", queue_name="py", worker_id="w1")
            status, text = await status_of(call.read())
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "limits.streams_per_worker is 2" in text
            async with pulling(door.gateway, "w2"):
                pass
        async with pulling(door.gateway) as worker:
            await door.client.submit(WORK, 1)
            await worker.complete(await worker.begin())


async def test_workers_share_a_queue(door: Door) -> None:
    async with pulling(door.gateway, "w1") as one, pulling(door.gateway, "w2") as two:
        run = (await door.client.submit(WORK, *range(20))).summary.run_id
        done: Counter[str] = Counter()

        async def work(worker: Any) -> None:
            while sum(done.values()) < 20:
                try:
                    task = await worker.begin(0.5)
                except TimeoutError:
                    return
                done[worker.worker] += 1
                await worker.complete(task)

        await asyncio.gather(work(one), work(two))
        assert (await result_of(door, run)).status == 2
        assert min(done.values()) >= 5, done


async def test_an_idle_worker_gets_what_a_busy_one_has_not_begun(door: Door) -> None:
    async with pulling(door.gateway, "busy") as busy:
        run = (await door.client.submit(WORK, 1, 2)).summary.run_id
        first = await busy.begin()
        waits = await busy.next()  # its slots are full
        async with pulling(door.gateway, "idle") as idle:
            taken = await idle.begin(5)
            assert given(taken) == given(waits)
            assert await busy.beat(waits) == "abort", "another worker has it"
            await idle.complete(taken, "idle")
            await busy.complete(first, "busy")
            assert (await result_of(door, run)).status == 2
        await door.client.submit(WORK, 3)
        assert given(await busy.begin()) == 3, "its credit came back with its question after the lost task"


async def test_the_least_busy_worker_goes_first(door: Door) -> None:
    async with pulling(door.gateway, "busy") as busy, pulling(door.gateway, "idle") as idle:
        await door.client.submit(WORK, 1, 2)
        ours, theirs = await busy.next(), await idle.next()
        assert await busy.beat(ours) == "in progress"
        assert await idle.beat(theirs) == "in progress"
        await idle.complete(theirs)
        await door.client.submit(WORK, 3)
        assert given(await idle.begin()) == 3
        await busy.nothing(0.2)


async def test_unbegun_tasks_of_a_stream_that_ends_go_back_at_once(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        run = (await door.client.submit(WORK, 1)).summary.run_id
        await worker.next()
    depth = await _depth_with_ready(door)
    assert (depth.ready, depth.in_flight) == (1, 0)
    async with pulling(door.gateway, "w2") as other:
        await other.complete(await other.begin(2.0))
        assert (await result_of(door, run)).status == 2


async def _depth_with_ready(door: Door) -> Any:
    broker = await door.deployment.connect()
    async with asyncio.timeout(1.0):  # far less than a lease, or the broker's own patience
        while not (depth := await broker.depth(Pool("py"))).ready:
            await asyncio.sleep(0.01)
    return depth


async def test_who_asks_first_after_a_task_that_was_taken_back_gets_it(door: Door) -> None:
    async with pulling(door.gateway, "w2") as other:
        run = (await door.client.submit(WORK, 1, 2)).summary.run_id
        first, second = await other.begin(), await other.next()
        async with pulling(door.gateway, "w1") as idle:
            assert given(await idle.next(2.0)) == given(second)
        assert await other.beat(second) == "in progress", "the idle one left before it had begun"
        await other.complete(second)
        await other.complete(first)
        assert (await result_of(door, run)).status == 2
        await other.nothing()


async def test_a_reader_that_does_not_read_is_sent_one_task(door: Door) -> None:
    async with pulling(door.gateway, "deaf", silent=True) as deaf, pulling(door.gateway, "w1") as worker:
        run = (await door.client.submit(WORK, *[["x" * 100_000]] * 30)).summary.run_id
        for _ in range(30):
            await worker.complete(await worker.begin())
        assert (await result_of(door, run)).status == 2
        assert deaf.questions == deaf.questions[:1]


async def test_a_run_that_uses_another_pool_is_not_delayed(door: Door) -> None:
    await door.client.submit(one_step("/nobody/work"), 1)
    async with pulling(door.gateway) as worker:
        run = (await door.client.submit(WORK, 1)).summary.run_id
        await worker.complete(await worker.begin(), 5)
        assert (await result_of(door, run)).output.number_value == 5


async def test_a_gateway_that_stops_lets_begun_tasks_end() -> None:
    async with opened(workers=0) as door:
        gateway = door.gateway
        async with pulling(gateway) as worker:
            run = (await door.client.submit(WORK, 1, 2)).summary.run_id
            begun = await worker.begin()
            unbegun = await worker.next()
            stopping = asyncio.ensure_future(gateway.bridge.stop(10.0))
            status, text = await status_of(worker.next())
            assert status is grpc.StatusCode.UNAVAILABLE
            assert "SM-7204" in text
            call = door.client.stream("TasksService/PullTasks", queue_name="py", worker_id="w9")
            assert (await status_of(call.read()))[0] is grpc.StatusCode.UNAVAILABLE
            assert not stopping.done()
            await worker.complete(begun, "in time")
            await asyncio.wait_for(stopping, 5)
            depth = await (await door.deployment.connect()).depth(Pool("py"))
            assert (depth.ready, depth.in_flight) == (1, 0), "what was not begun is handed back"
            assert given(unbegun) in (1, 2)
            assert (await door.client("RunsService/GetRun", run_id=run)).summary.items.completed == 1


async def test_where_to_ask_for_a_run(door: Door) -> None:
    async with pulling(door.gateway) as worker:
        await door.client.submit(WORK, 1)
        task = await worker.begin()
        for id in (task.execute.observability.run_id, task.context.root_run_id):
            answer = await door.client("TasksService/GetOrchestratorForRun", run_id=id)
            assert answer.orchestrator_service_url == door.gateway.address
        unknown = door.client("TasksService/GetOrchestratorForRun", run_id="01900000-0000-7000-8000-000000000000")
        assert (await status_of(unknown))[0] is grpc.StatusCode.NOT_FOUND
