"""A coroutine driven by hand behaves as in a task of its own: current_task, timeout, TaskGroup, cancel, context variables."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import msgspec
import pytest

from stepmesh import Worker, current_context
from stepmesh_broker.protocol.messages import ErrorCode

variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
def go(shard, running, task):
    """Run components by name in one frame; returns decoded outputs (or failures) by step."""

    async def run(worker: Worker, *paths: str):
        async with running(worker):
            await shard.send(*[task(path, step=n) for n, path in enumerate(paths)])
            results = await shard.until_results(len(paths))
        by_step = sorted(results, key=lambda result: result.step)
        return [result.failure or msgspec.json.decode(result.output) for result in by_step]

    return run


async def test_current_task_is_the_same_before_and_after_a_suspension(go):
    worker = Worker("cpu")

    @worker.component
    async def same():
        before = asyncio.current_task()
        await asyncio.sleep(1)
        return before is not None and before is asyncio.current_task()

    assert await go(worker, "/same", "/same", "/same") == [True, True, True]


async def test_components_that_suspend_have_tasks_of_their_own(go):
    worker = Worker("cpu")
    tasks = []

    @worker.component
    async def mine():
        tasks.append(asyncio.current_task())
        await asyncio.sleep(1)

    await go(worker, "/mine", "/mine", "/mine")
    assert len(set(tasks)) == 3


@pytest.mark.parametrize(("takes", "answer"), [(0.9, "done"), (1.1, "too late")])
async def test_asyncio_timeout_entered_before_the_first_suspension(go, takes, answer):
    worker = Worker("cpu")

    @worker.component
    async def limited():
        try:
            async with asyncio.timeout(1.0):
                await asyncio.sleep(takes)
                return "done"
        except TimeoutError:
            return "too late"

    assert await go(worker, "/limited", "/limited") == [answer, answer]


async def test_a_timeout_that_never_suspends_leaves_the_next_component_alone(go):
    worker = Worker("cpu")

    @worker.component
    async def quick():
        async with asyncio.timeout(0.5):  # noqa: ASYNC100 - that it never suspends is the point
            return "quick"

    @worker.component
    async def slow():
        await asyncio.sleep(5)
        return "slow"

    assert await go(worker, "/quick", "/slow", "/quick") == ["quick", "slow", "quick"]


async def test_a_task_group_collects_its_children_and_their_errors(go):
    worker = Worker("cpu")

    async def child(n):
        await asyncio.sleep(n)
        return n

    async def bad():
        raise ValueError("child broke")

    @worker.component
    async def group():
        async with asyncio.TaskGroup() as tasks:
            children = [tasks.create_task(child(n)) for n in range(3)]
        return [one.result() for one in children]

    @worker.component
    async def broken():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child(100))
            tasks.create_task(bad())

    good, failed = await go(worker, "/group", "/broken")
    assert good == [0, 1, 2]
    assert failed.code == ErrorCode.COMPONENT_FAILED
    assert "child broke" in failed.data.decode()


async def test_context_variables_do_not_leak_between_components(go):
    worker = Worker("cpu")

    @worker.component
    async def sets():
        variable.set("leaked")

    @worker.component
    async def sets_and_waits():
        variable.set("mine")
        await asyncio.sleep(1)
        inner = await asyncio.create_task(reads_inner())
        return [variable.get(), inner]

    async def reads_inner():
        return variable.get()

    @worker.component
    async def reads():
        return variable.get()

    assert await go(worker, "/sets", "/reads", "/sets_and_waits", "/reads") == [None, "unset", ["mine", "mine"], "unset"]


async def test_current_context_is_the_components_own_after_suspensions_too(go):
    worker = Worker("cpu")

    @worker.component
    async def who():
        before = current_context().step_id
        await asyncio.sleep(1)
        return [before, current_context().step_id]

    assert await go(worker, "/who", "/who") == [["s0", "s0"], ["s1", "s1"]]


async def test_a_component_that_cancels_its_task_harms_no_other(go):
    worker = Worker("cpu")

    @worker.component
    async def suicide():
        asyncio.current_task().cancel()
        return "ended first"

    @worker.component
    async def suicide_later():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    @worker.component
    async def fine():
        await asyncio.sleep(0)
        return "fine"

    ended, failed, *others = await go(worker, "/suicide", "/suicide_later", "/fine", "/fine")
    assert ended == "ended first"
    assert failed.code == ErrorCode.COMPONENT_FAILED
    assert "cancelled itself" in failed.message
    assert others == ["fine", "fine"]


async def test_awaiting_something_that_was_cancelled_is_a_failure_not_a_drop(go):
    worker = Worker("cpu")

    @worker.component
    async def awaits():
        other = asyncio.create_task(asyncio.sleep(100))
        asyncio.get_running_loop().call_later(1, other.cancel)
        await other

    (failed,) = await go(worker, "/awaits")
    assert failed.code == ErrorCode.COMPONENT_FAILED


async def test_shielded_work_goes_on_and_gather_and_events_work(go):
    worker = Worker("cpu")
    event = asyncio.Event()

    @worker.component
    async def waits():
        await event.wait()
        return await asyncio.gather(asyncio.sleep(1, "a"), asyncio.sleep(2, "b"))

    @worker.component
    async def sets():
        await asyncio.shield(asyncio.sleep(1))
        event.set()

    assert await go(worker, "/waits", "/sets") == [["a", "b"], None]


async def test_async_generators_and_context_managers_are_finalised(go):
    worker = Worker("cpu")
    closed = []

    async def numbers():
        try:
            for n in range(10):
                yield n
                await asyncio.sleep(0.1)
        finally:
            closed.append(True)

    @worker.component
    async def takes():
        total = 0
        source = numbers()
        async for n in source:
            total += n
            if n == 3:
                break
        await source.aclose()
        return total

    assert await go(worker, "/takes") == [6]
    assert closed == [True]


async def test_an_exception_thrown_into_a_wait_reaches_the_component(go):
    worker = Worker("cpu")

    @worker.component
    async def catches():
        broken = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, broken.set_exception, KeyError("from outside"))
        try:
            await broken
        except KeyError as problem:
            await asyncio.sleep(1)
            return str(problem)

    assert await go(worker, "/catches") == ["'from outside'"]


async def test_a_long_row_of_quick_components_lets_the_loop_breathe(shard, running, task):
    worker = Worker("cpu")
    ticks = []

    @worker.component
    async def spin():
        asyncio.get_running_loop()._selector.now += 0.01  # ten milliseconds of work

    async def ticker():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    async with running(worker):
        clock = asyncio.create_task(ticker())
        await shard.send(*[task("/spin", step=n) for n in range(64)])
        await shard.until_results(64)
        clock.cancel()
    assert len(ticks) > 20
