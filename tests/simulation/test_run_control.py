"""Runs that are paused, woken and retried while the orchestrator dies at every journal write: same results, and no call made twice that
succeeded once."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_crash_every_write import FLOW, CrashAt, expected, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh.run_control import UNCHANGED, Changes
from stepmesh_orchestrator.journal.memory import MemoryJournal

LONGER = json.loads(json.dumps(FLOW).replace('"2s"', '"2m"'))
"""Its nap ends while it is paused."""
DAY = {
    "name": "sleep a day",
    "steps": [
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "24h", "passthrough": {"$input": "$"}}},
        {"id": "echo", "component": "/cpu/echo", "input": {"$step": "nap"}},
    ],
    "output": {"$step": "echo"},
}
BROKEN = {
    "name": "fails behind a paid call",
    "steps": [
        {"id": "paid", "component": "/cpu/echo", "input": {"$input": "$"}},
        {"id": "bad", "component": "/cpu/unknown", "input": {"$step": "paid"}},
        {"id": "after", "component": "/cpu/echo", "input": {"$step": "bad"}},
    ],
    "output": [{"$step": "paid"}, {"$step": "after"}],
}
LONG_S = 7 * 24 * 3_600.0
MENDED = {"bad": {"value": {"component": "/cpu/echo"}}}


async def results(handle: Any) -> list[Any]:
    return [json.loads(item.result).get("result") async for item in handle.items()]


def calls_but(world: World, *others: str) -> int:
    """Of the run's own tasks and of its sub-runs'."""
    return sum(count for key, count in world.executions.items() if key[0] not in others)


async def play(memory: MemoryJournal, seed: int = 0) -> World:
    """A run that is paused at a random time for a random while; one that sleeps for a day and is woken; one that fails, and is forked with
    its failing step mended."""
    random = Random(seed)
    world = World(memory)
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    client = await world.client()
    handle = await client.submit(LONGER, [{"n": 7}, {"n": 8}], run_key="once")
    sleeper = await client.submit(DAY, [5], run_key="sleeper")
    broken = await client.submit(BROKEN, [1, 2], run_key="broken")
    await asyncio.sleep(random.uniform(0.0, 60.0))
    await client.control.pause(handle.id, "maintenance")
    await asyncio.sleep(random.uniform(10.0, 40.0))
    assert (await handle.info()).summary.status == "paused"
    calls = calls_but(world, sleeper.id, broken.id)
    await asyncio.sleep(600.0)
    assert calls_but(world, sleeper.id, broken.id) == calls, "nothing runs meanwhile"
    await client.control.resume(handle.id)
    assert await client.control.wake(sleeper.id) == ["nap"]
    await handle.wait(timeout=1_200)
    await sleeper.wait(timeout=60)
    assert (await broken.wait(timeout=60)).summary.status == "failed"
    fork = await client.control.fork(broken.id, changes=Changes(overrides=MENDED), key="mended")
    again = await client.control.fork(broken.id, changes=Changes(overrides=MENDED), key="mended")
    assert again.run == fork.run
    await client.handle(fork.run).wait(timeout=600)
    assert await results(handle) == [expected(7), expected(8)]
    assert await results(sleeper) == [5]
    assert await results(client.handle(fork.run)) == [[1, 1], [2, 2]]
    assert not [key for key in world.executions if key[0] == fork.run and key[2] == "paid"], "what was paid for is not called again"
    await world.close(keeper)
    await world.audit()
    return world


@pytest.mark.parametrize("seed", range(8))
def test_a_pause_at_any_time_changes_no_result(seed: int) -> None:
    assert run_virtual(play(MemoryJournal(), seed)).restarts == 0


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_single_write_loses_nothing(side: str) -> None:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count)))
    assert count.calls > 20
    for at in range(1, count.calls + 1):
        world = run_virtual(play(journal(side, CrashAt(at)), seed=at))
        assert world.restarts <= 1


def test_a_paused_run_that_slept_meanwhile_goes_on_at_once() -> None:
    async def story() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(DAY, [5])
        await until(lambda: world.dormant() == {handle.id})
        await client.control.pause(handle.id)
        await asyncio.sleep(2 * 24 * 3_600.0)
        info = await handle.info()
        assert (info.summary.status, info.summary.completed) == ("paused", 0)
        assert await client.explain(handle.id) != []
        await client.control.resume(handle.id)
        began = asyncio.get_running_loop().time()
        await handle.wait(timeout=60)
        assert asyncio.get_running_loop().time() - began < 5.0
        await world.close()

    run_virtual(story(), limit_s=LONG_S)


def test_the_same_run_again_from_a_step_on() -> None:
    async def story() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(FLOW, [{"n": 7}])
        await handle.wait(timeout=600)
        fork = await client.control.fork(handle.id, from_step="s", changes=UNCHANGED)
        await client.handle(fork.run).wait(timeout=600)
        assert {key[2] for key in world.executions if key[0] == fork.run} == {"s"}
        assert await results(client.handle(fork.run)) == [expected(7)]
        await world.close()

    run_virtual(story(), limit_s=LONG_S)
