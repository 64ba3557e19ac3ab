"""Ten thousand events to as many runs, half of them sent before anybody waits: all are delivered, each once.

`STEPMESH_EVENTS` sets how many (2,000 here).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import run_virtual

from stepmesh.client import Client
from stepmesh.runs import RunHandle
from stepmesh_orchestrator.core.events import EventReceived, WaitOver, decode_turn
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports

EVENTS = int(os.environ.get("STEPMESH_EVENTS", "2000"))
AT_ONCE = 500
WAIT = {
    "name": "wait",
    "steps": [
        {
            "id": "w",
            "component": "/builtin/wait_for_event",
            "input": {"name": "paid", "key": {"$input": "order"}, "since": "1h", "timeout": "30m"},
        }
    ],
    "output": {"$step": "w"},
}


class WideWorld(World):
    """Eight partitions."""

    async def start_node(self) -> Node:
        ports = Ports(await self.connection(), self.journal, self.store, self.clock)
        self.node = Node(ports, NodeSettings(partitions=8))
        await self.node.start()
        return self.node


async def in_turns(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """So many at once, as senders that wait for their answers would be."""
    found: list[Any] = []
    for first in range(0, len(work), AT_ONCE):
        found += await asyncio.gather(*work[first : first + AT_ONCE])
    return found


async def send(client: Client, orders: Sequence[int]) -> list[Any]:
    """One event for each of these, and every tenth a second time."""
    again = [order for order in orders if order % 10 == 0]
    sent = [client.events.send("paid", key=order, data={"order": order}, id=f"e{order}") for order in (*orders, *again)]
    return await in_turns(sent)


async def play() -> None:
    world = WideWorld()
    await world.start_node()
    client = await world.client()
    orders = list(range(EVENTS))
    random.Random(7).shuffle(orders)
    early, late = orders[: EVENTS // 2], orders[EVENTS // 2 :]
    kept = await send(client, early)
    assert sum(one.matched for one in kept) == 0
    flow = await client.store_flow(WAIT)
    handles: list[RunHandle] = await in_turns([client.submit(flow, [{"order": order}]) for order in range(EVENTS)])
    await asyncio.sleep(60)  # those that wait are dormant by then
    assert {handle.id for handle in handles if handle.id in dormant(world)} == {handles[order].id for order in late}
    told = await send(client, late)
    assert Counter(one.matched for one in told) == {1: len(late), 0: len(told) - len(late)}
    ended = await in_turns([handle.wait(timeout=100) for handle in handles])
    results = [json.loads(info.results[0].result) for info in ended]
    assert results == [{"outcome": "success", "result": {"order": order}} for order in range(EVENTS)]
    await world.close()
    await world.audit()
    assert await counted(world) == {"received": EVENTS, "taken": EVENTS}


def dormant(world: World) -> set[str]:
    assert world.node is not None
    return {run for service in world.node.partitions.values() for run in service.shard.session.state.dormant.places}


async def counted(world: World) -> dict[str, int]:
    """In the journal."""
    kinds: Counter[str] = Counter()
    for partition in await world.journal.partitions():
        async for frame in world.journal.read(partition):
            for event in decode_turn(frame.payload).events:
                kinds["received"] += isinstance(event, EventReceived)
                kinds["taken"] += isinstance(event, WaitOver) and event.position > 0
    return dict(kinds)


def test_every_event_reaches_its_run_once_however_early_it_came() -> None:
    run_virtual(play())
