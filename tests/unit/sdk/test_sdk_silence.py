"""Components that have to give signs of life: one that is silent for longer than its `heartbeat` is ended."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.sdk.conftest import run_info

from stepmesh import Worker, wf
from stepmesh.component import build
from stepmesh.durable.app import App
from stepmesh.errors import BadComponent
from stepmesh_broker.protocol.api import GetRun
from stepmesh_broker.protocol.messages import ErrorCode

FLOW = "f" * 64


def silent(result: Any, seconds: str) -> bool:
    return result.failure is not None and (result.failure.code, result.failure.message) == (
        ErrorCode.TIMEOUT,
        f"the attempt gave no sign of life for {seconds} s",
    )


async def test_one_that_is_silent_for_too_long_is_ended_and_one_that_is_not_goes_on(shard, running, task):
    worker = Worker("cpu")

    @worker.component(heartbeat=10)
    async def work(pause, context):
        for n in range(5):
            context.heartbeat(n / 5)
            await asyncio.sleep(pause)
        return "done"

    async with running(worker):
        await shard.send(task("/work", 9.9, step=1))
        await shard.send(task("/work", 10.1, step=2))
        await shard.send(task("/work", 0, step=3))
        results = {result.step: result for result in await shard.until_results(3)}
    assert results[1].output == results[3].output == b'"done"'
    assert silent(results[2], "10")


async def test_one_that_waits_for_a_sub_run_need_not_speak(shard, running, task, api):
    worker = Worker("cpu", concurrency=1)

    async def later(_: GetRun) -> Any:
        await asyncio.sleep(25)
        return run_info("r", results=[{"outcome": "success", "result": 7}])

    api.answers[GetRun] = later

    @worker.component(heartbeat=10)
    async def work(pause, context):
        found = await context.evaluate_flow_by_id(FLOW, 1)
        await asyncio.sleep(pause)
        return found

    async with running(worker):
        await shard.send(task("/work", 9.9, step=1))
        assert msgspec.json.decode((await shard.until_results(1))[0].output) == 7
        await shard.send(task("/work", 10.1, step=2))
        assert silent((await shard.until_results(2))[1], "10")


async def test_a_step_of_a_pool_has_it_from_its_declaration(shard, running, task):
    app = App("orders")

    @app.step(pool="cpu", heartbeat="10s")
    async def render(pause: float) -> str:
        await asyncio.sleep(pause)
        wf.step().heartbeat()
        await asyncio.sleep(pause)
        return "done"

    async with running(app.worker("cpu")):
        await shard.send(task("/orders/render", {"pause": 9}, step=1))
        await shard.send(task("/orders/render", {"pause": 11}, step=2))
        results = {result.step: result for result in await shard.until_results(2)}
    assert results[1].output == b'"done"'
    assert silent(results[2], "10")


class TestThreads:
    @pytest.fixture
    def time_passes(self):
        """Threads live in real time."""

    async def test_a_sync_one_that_is_silent_is_told_to_stop(self, shard, running, task):
        worker, told = Worker("cpu"), threading.Event()

        @worker.component(heartbeat=0.05)
        def work(context):
            while not context.cancelled:
                threading.Event().wait(0.005)
            told.set()

        async with running(worker):
            await shard.send(task("/work"))
            assert silent((await shard.until_results(1))[0], "0.05")
        assert told.is_set()


@pytest.mark.parametrize("heartbeat", [0, -1, timedelta(0), float("inf")])
def test_a_heartbeat_is_a_time_above_zero(heartbeat: Any) -> None:
    with pytest.raises(BadComponent, match=r"heartbeat .* is not above 0 seconds"):
        build(lambda: None, "/f", heartbeat=heartbeat)
    assert build(lambda: None, "/f", heartbeat=timedelta(seconds=2)).heartbeat_s == 2
