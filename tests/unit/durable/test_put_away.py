"""A body that is put away is gone at once, without the collector: what waits is in no worker's memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.durable.bodies import BEGAN_MS, RUN, Body, step

from stepmesh import wf
from stepmesh.durable.execution import Execution
from stepmesh_broker.protocol.histories import Issued, Kind, Settled, UpdateAsked


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def waits_for_a_step() -> Any:
    return await step("a")


async def sleeps() -> None:
    await step("a")
    await asyncio.sleep(86_400)


async def gathers() -> Any:
    async def two(name: str) -> Any:
        return [await step(name), await step(name)]

    return await asyncio.gather(two("x"), asyncio.wait_for(two("y"), 60), two("z"))


async def has_a_group() -> None:
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        group.create_task(asyncio.sleep(30))
        await step("a")


async def races() -> Any:
    return await wf.first(asyncio.sleep(30), asyncio.sleep(60), step("a"))


async def has_handlers() -> None:
    task = asyncio.create_task(asyncio.sleep(3_600))

    @wf.query
    def state() -> str:
        return str(task)

    @wf.update
    async def change(by: int) -> int:
        await step("changes")
        return int(task.done()) + by

    await asyncio.shield(task)


async def detaches() -> None:
    wf.detach(wf.run("mail", lambda: None))
    await wf.wait_for_event("paid", "k", timeout="3d")


async def cleans_up() -> None:
    try:
        async with wf.saga() as saga:
            saga.undo(step, "undone")
            await step("a")
    finally:
        await asyncio.sleep(1)


async def fails_once() -> None:
    try:
        async with asyncio.timeout(5):
            await step("a")
    except TimeoutError as late:
        await step(str(late))


BODIES = [waits_for_a_step, sleeps, gathers, has_a_group, races, has_handlers, detaches, cleans_up, fails_once]


@pytest.mark.parametrize("settled", range(3))
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_nothing_of_a_body_is_left(body: Body, settled: int) -> None:
    assert put_away(body, settled)() is None


def put_away(body: Body, settled: int) -> weakref.ref[Execution]:
    """A body that got the results of so many steps, one a turn, at most."""
    execution = Execution(body, BEGAN_MS, RUN)
    turn, steps = execution.turn(), list[Issued]()
    if "change" in execution.handlers.updates:
        turn = execution.turn([UpdateAsked("u1", BEGAN_MS, "change", b"1")])
    for _ in range(settled):
        steps += [command for command in turn.commands if isinstance(command, Issued) and command.kind is Kind.STEP]
        if steps:
            turn = execution.turn([*turn.commands, Settled(steps.pop(0).id, BEGAN_MS + 1)])
    assert turn.error is None
    execution.drop()
    return weakref.ref(execution)
