"""Sync components: threads with their context, heartbeats meanwhile, cancel by flag. Real time, events instead of waits."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import msgspec
import pytest

from stepmesh import Worker, current_context
from stepmesh.leases import Timing
from stepmesh_broker.protocol.messages import ErrorCode, Verdict

FAST = Timing(tick=0.01, claim_after=0.02, in_progress=0.05, hello=0.05, fetch=0.05)
variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
def time_passes():
    """Threads live in real time."""


async def test_a_sync_component_runs_in_a_thread_with_its_context(shard, running, task):
    worker = Worker("cpu", timing=FAST)

    @worker.component
    def work(input, context):
        variable.set("mine")
        return [threading.current_thread() is threading.main_thread(), current_context() is context, context.step_id, input]

    @worker.component
    def reads():
        return variable.get()

    async with running(worker):
        await shard.send(task("/work", {"a": 1}, step=1))
        await shard.send(task("/reads", step=2))
        results = await shard.until_results(2)
    outputs = {result.step: msgspec.json.decode(result.output) for result in results}
    assert outputs == {1: [False, True, "s1", {"a": 1}], 2: "unset"}


async def test_heartbeats_go_on_while_a_thread_blocks(shard, running, task):
    worker = Worker("cpu", timing=FAST)
    shard.lease_ms = 60
    release = threading.Event()

    @worker.component
    def block(context):
        context.heartbeat(0.25, phase="blocked")
        release.wait(20)
        return "released"

    async with running(worker):
        await shard.send(task("/block"))
        await shard.until(lambda: len(shard.heartbeats) >= 3)
        release.set()
        (result,) = await shard.until_results(1)
    assert result.output == b'"released"'
    assert shard.heartbeats[-1].tasks[0].fraction == 0.25


async def test_a_cancelled_sync_component_sees_the_flag_and_gives_no_result(shard, running, task):
    worker = Worker("cpu", timing=FAST)
    shard.lease_ms = 30
    seen = threading.Event()

    @worker.component
    def loop(context):
        while not context.cancelled:
            threading.Event().wait(0.005)
        seen.set()
        return "late"

    async with running(worker):
        await shard.send(task("/loop"))
        await shard.until(lambda: bool(shard.heartbeats))
        shard.verdict = lambda ref: Verdict.CANCELLED
        assert await asyncio.to_thread(seen.wait, 20)
        assert await shard.no_result(0.2)
    assert await shard.frames_left() == 0


async def test_a_sync_component_over_its_limit_times_out_and_its_late_value_is_dropped(shard, running, task):
    worker = Worker("cpu", timing=FAST, cancel_grace_s=0.05, concurrency=1)
    release = threading.Event()

    @worker.component(timeout=0.05)
    def stuck():
        release.wait(20)
        return "late"

    async with running(worker):
        await shard.send(task("/stuck"))
        (result,) = await shard.until_results(1)
        assert result.failure.code == ErrorCode.TIMEOUT
        assert not release.is_set(), "the result does not wait for the thread"
        release.set()
        assert await shard.no_result(0.2)


async def test_threads_are_bounded_by_concurrency(shard, running, task):
    worker = Worker("cpu", timing=FAST, concurrency=2)
    lock, gate = threading.Lock(), threading.Barrier(2)
    now, most = 0, 0

    @worker.component
    def count():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait(20)  # passes only when two are here
        with lock:
            now -= 1

    async with running(worker):
        await shard.send(*[task("/count", step=n) for n in range(6)])
        await shard.until_results(6)
    assert most == 2


@pytest.mark.parametrize("problem", [ValueError("bad"), SystemExit(3), StopIteration("stop"), KeyError("k")])
async def test_whatever_a_thread_raises_ends_only_its_task(shard, running, task, problem):
    worker = Worker("cpu", timing=FAST)

    @worker.component
    def breaks():
        raise problem

    @worker.component
    def works():
        return 1

    async with running(worker):
        await shard.send(task("/breaks", step=1), task("/works", step=2))
        results = {result.step: result for result in await shard.until_results(2)}
    assert results[1].failure.code == ErrorCode.COMPONENT_FAILED
    assert results[2].output == b"1"


async def test_a_stuck_thread_does_not_hold_the_drain_beyond_its_grace(shard, broker, task):
    worker = Worker("cpu", timing=FAST, drain_grace_s=0.4, cancel_grace_s=0.05)
    release, started = threading.Event(), threading.Event()

    @worker.component
    def stuck():
        started.set()
        release.wait(20)

    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/stuck"))
    assert await asyncio.to_thread(started.wait, 20)
    worker.stop()
    await job
    assert worker.stuck == 1
    assert (await shard.broker.depth("cpu")).ready == 1, "handed back"
    release.set()


async def test_block_on_runs_async_methods_from_the_thread(shard, running, task):
    worker = Worker("cpu", timing=FAST)

    @worker.component
    def asks(context):
        return context.block_on(answer(context))

    async def answer(context):
        await asyncio.sleep(0)
        return context.step_id

    async with running(worker):
        await shard.send(task("/asks", step=4))
        (result,) = await shard.until_results(1)
    assert result.output == b'"s4"'
