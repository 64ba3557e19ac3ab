"""A durable function that waits for nothing but somebody's decision leaves memory, too, again after a crash, and the decision finds it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.deployment_world import Crash, World, until
from tests.simulation.virtual_loop import run_virtual

from stepmesh.durable import wf
from stepmesh.durable.app import App

FLOW = {"steps": [{"id": "w", "component": "/py/order", "input": 1}], "output": {"$step": "w"}}


async def play() -> None:
    tokens: list[str] = []

    async def order(value: Any) -> Any:
        promise = wf.promise(int)
        tokens.append(promise.token)
        return await promise

    world, app = World(), App("py")
    app.workflow(order)
    keeper = asyncio.create_task(world.keep_node_alive())
    await until(lambda: world.node)
    await world.employ(app.worker())
    client = await world.client()
    handle = await client.submit(FLOW, [None])
    await until(lambda: handle.id in world.dormant())
    assert world.node is not None
    world.node.ended.set_exception(Crash("on purpose"))
    await until(lambda: world.restarts and handle.id in world.dormant())
    await client.promises.resolve(tokens[0], 7)
    assert await handle.result(timeout=60) == 7
    await world.close(keeper)
    await world.audit()


def test_who_waits_for_a_decision_alone_leaves_memory() -> None:
    run_virtual(play(), 3_600)
