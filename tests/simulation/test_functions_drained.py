"""A worker that drains in the midst of a function's steps: another one goes on at once, and nothing is done twice."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_orchestrator.core import events as ev
from stepmesh_orchestrator.core.events import decode_turn

STEPS, STEP_S = 6, 3.0


def worker_of(done: list[tuple[str, int]], name: str) -> Worker:
    app = App("py")

    async def slow(n: int) -> int:
        await asyncio.sleep(STEP_S)
        done.append((name, n))
        return n

    async def chain(_: None) -> list[int]:
        return [await wf.run("slow", slow, n) for n in range(STEPS)]

    app.workflow(chain)
    return app.worker(name=name)


async def drained(leave_at: float) -> tuple[list[tuple[str, int]], float]:
    world, done = World(), list[tuple[str, int]]()
    await world.start_node()
    first, second = worker_of(done, "first"), worker_of(done, "second")
    running = asyncio.create_task(first.run(await world.connection()))
    client = await world.client()
    handle = await client.submit({"steps": [{"id": "f", "component": "/py/chain", "input": None}], "output": {"$step": "f"}}, [None])
    await asyncio.sleep(leave_at)
    first.stop()
    await world.employ(second)
    await handle.wait(timeout=600)
    took = asyncio.get_running_loop().time()
    await running
    await world.close()
    attempts = [
        event.attempt
        for partition in await world.journal.partitions()
        async for frame in world.journal.read(partition)
        for event in decode_turn(frame.payload).events
        if isinstance(event, ev.StepDispatched)
    ]
    assert attempts == [1, 2], "no attempt is lost with a worker that leaves"
    return done, took


@pytest.mark.parametrize("leave_at", [0.5, 4.0, 10.0])
def test_a_worker_that_drains_ends_its_step_and_another_one_does_the_next(leave_at: float) -> None:
    done, took = run_virtual(drained(leave_at))
    by_first = int(leave_at // STEP_S) + 1
    assert done == [("first" if n < by_first else "second", n) for n in range(STEPS)]
    assert took < STEPS * STEP_S + 2
