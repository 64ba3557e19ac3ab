"""A durable function waits once more for what it gave up. One that begins anew does so under the names of its former waits: a recovery that
tells the end of one of those once more must not end the wait that stands now. One whose time limit was over before the event came hears the
event with its next wait, though no worker was there in between."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.deployment_world import Crash, World, until
from tests.simulation.faults import kind_of
from tests.simulation.virtual_loop import run_virtual

from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Partition, Position

FLOW = {"steps": [{"id": "w", "component": "/py/order", "input": 1}], "output": {"$step": "w"}}


class Slow:
    """A connection whose letters take long while `slow_s` is not 0; everything else goes straight through."""

    def __init__(self, inner: Broker) -> None:
        self._inner = inner
        self.slow_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        if kind_of(data) == "letters":
            await asyncio.sleep(self.slow_s)
        return await self._inner.post(partition, data, message_id)


async def order(life: int) -> Any:
    """Its second life waits for what its first one gave up."""
    try:
        return await wf.wait_for_event("paid", "o1", timeout="10s" if life == 1 else "1h")
    except TimeoutError:
        if life == 1:
            wf.continue_as_new(2)
        raise


async def play() -> None:
    connections: list[Slow] = []

    def wrap(broker: Broker) -> Broker:
        connections.append(Slow(broker))
        return connections[-1]  # type: ignore[return-value]

    world, app = World(wrap=wrap), App("py")
    app.workflow(order)
    keeper = asyncio.create_task(world.keep_node_alive())
    await until(lambda: world.node)
    await world.employ(app.worker())
    client = await world.client()
    handle = await client.submit(FLOW, [None])
    await asyncio.sleep(5)
    connections[0].slow_s = 60.0
    await asyncio.sleep(15)  # the first life is over, the second waits, and no letter says so yet
    assert world.node is not None
    world.node.ended.set_exception(Crash("on purpose"))
    await until(lambda: world.restarts)
    await asyncio.sleep(10)
    assert (await client.events.send("paid", key="o1", data=7)).matched == 1
    assert await handle.result(timeout=60) == 7
    await world.close(keeper)
    await world.audit()


def test_a_recovery_leaves_the_wait_of_the_next_life_standing() -> None:
    run_virtual(play(), 7_200)


async def remind() -> None:
    app, reminded = App("py"), list[int]()

    async def patient(value: Any) -> Any:
        while True:
            try:
                return await wf.wait_for_event("paid", "o1", timeout="1h")
            except TimeoutError:
                reminded.append(1)

    app.workflow(patient, name="order")
    world = World()
    await world.start_node()
    client = await world.client()
    handle = await client.submit(FLOW, [None])
    first = app.worker()
    working = asyncio.create_task(first.run(await world.connection()))
    await asyncio.sleep(60)
    first.stop()
    await working
    await asyncio.sleep(3_600)
    await client.events.send("paid", key="o1", data=7)
    await asyncio.sleep(600)
    await world.employ(app.worker())
    assert await handle.result(timeout=60) == 7
    assert reminded
    await world.close()
    await world.audit()


def test_an_event_that_came_too_late_for_a_wait_is_there_for_the_next_one() -> None:
    run_virtual(remind(), 7_200)
