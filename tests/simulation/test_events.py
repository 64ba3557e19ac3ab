"""Events from outside over several partitions: the orchestrator dies at every journal write, letters come twice, late, and in any order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.faults import FaultyBroker, Rates
from tests.simulation.test_crash_every_write import CrashAt, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh.client import Client
from stepmesh.runs import RunHandle
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.api import GetSteps, Steps
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import events as ev
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports

PARTITIONS = 3
LETTERS = Rates(duplicate=0.3, delay=0.3, refuse=0.1, mute=0.1, only=("letters",), window_s=(0.1, 3.0))
ORDER = {
    "name": "order",
    "steps": [
        {"id": "paid", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": {"$input": "order"}}},
        {"id": "ok", "component": "/builtin/approval", "input": {"title": "Send it?", "approvers": ["ann"]}},
        {
            "id": "sent",
            "component": "/builtin/wait_for_event",
            "input": {"name": "paid", "key": {"$if": {"$step": "paid"}, "then": {"$if": {"$step": "ok"}, "then": {"$input": "order"}}}},
        },
        {
            "id": "never",
            "component": "/builtin/wait_for_event",
            "input": {"name": "paid", "timeout": "20s"},
            "onError": {"action": "useDefault", "defaultValue": "late"},
        },
    ],
    "output": [{"$step": "paid"}, {"$step": "ok", "path": "by"}, {"$step": "sent"}, {"$step": "never"}],
}


class EventWorld(World):
    """A deployment of several partitions."""

    async def start_node(self) -> Node:
        ports = Ports(await self.connection(), self.journal, self.store, self.clock)
        self.node = Node(ports, NodeSettings(partitions=PARTITIONS))
        await self.node.start()
        return self.node

    def dormant(self) -> set[str]:
        services = [] if self.node is None else list(self.node.partitions.values())
        return {run for service in services for run in service.shard.session.state.dormant.places}

    async def check_once(self) -> None:
        """No run took an event twice."""
        taken: list[tuple[str, str, int]] = []
        for partition in await self.journal.partitions():
            async for frame in self.journal.read(partition):
                found = decode_turn(frame.payload).events
                taken += [(event.run, event.key, event.position) for event in found if isinstance(event, ev.WaitOver) and event.position]
        assert taken
        assert len(taken) == len(set(taken))


async def play(side: str, crash: CrashAt, wrap: Callable[[Broker], Broker] | None = None) -> EventWorld:
    """Three orders, two runs each: the first event comes to some before they wait for it, to others while they do, the second one when
    all are dormant; both come twice. What is written when all is over is left alone. Nobody is left behind at an address, unless a letter
    of somebody who had gone came once more."""
    world = EventWorld(journal(side, crash), wrap or (lambda broker: broker))
    keeper = asyncio.create_task(world.keep_node_alive())
    client = await world.client()
    handles: list[RunHandle] = []
    for number in range(3):
        handles += [await client.submit(ORDER, [{"order": f"o{number}"}], run_key=f"{number}/{copy}") for copy in range(2)]
        if number < 2:
            await send_twice(client, f"o{number}", "first")
    await send_twice(client, "o2", "first")
    await asyncio.gather(*(approve(client, handle) for handle in handles))
    await until(lambda: world.dormant() >= {handle.id for handle in handles})
    for number in range(3):
        await send_twice(client, f"o{number}", "second")
    for index, handle in enumerate(handles):
        await handle.wait(timeout=1_200)
        (item,) = [json.loads(item.result) async for item in handle.items()]
        order = f"o{index // 2}"
        assert item == {"outcome": "success", "result": [f"{order} first", "ann", f"{order} second", "late"]}
    if wrap is None:
        await until(lambda: nobody_waits(world))
    crash.at.clear()
    await world.close(keeper)
    await world.audit()
    await world.check_once()
    return world


async def send_twice(client: Client, order: str, what: str) -> None:
    for _ in range(2):
        await client.events.send("paid", key=order, data=f"{order} {what}", id=what)


async def approve(client: Client, handle: RunHandle) -> None:
    """As soon as it is asked for; whoever is not sure says it again."""
    while True:
        steps = (await client.requests.ask(GetSteps(RunId(handle.id)), Steps)).steps
        (token,) = [step.token for step in steps if step.step_id == "ok"] or [""]
        if token:
            break
        await asyncio.sleep(0.1)
    for _ in range(2):
        await client.promises.resolve(token, {"approved": True, "by": "ann"})


def nobody_waits(world: EventWorld) -> bool:
    services = [] if world.node is None else list(world.node.partitions.values())
    addresses = [address for service in services for address in service.shard.session.state.addresses.places.values()]
    return len(services) == PARTITIONS and not any(address.waiters for address in addresses)


def test_without_faults() -> None:
    world = run_virtual(play("before", CrashAt()))
    assert world.restarts == 0


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_journal_write_loses_no_event_and_doubles_none(side: str) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        crash = CrashAt(at)
        run_virtual(play(side, crash))
        reached = crash.calls >= at
    assert at > 40


@pytest.mark.parametrize("seed", range(8))
def test_letters_may_come_twice_late_and_in_any_order_over_crashes(seed: int) -> None:
    random = Random(seed)
    crash = CrashAt(*(random.randrange(1, 90) for _ in range(3)))
    faults: list[str] = []

    def wrap(broker: Broker) -> Broker:
        faulty: Any = FaultyBroker(broker, lambda: LETTERS, random, lambda fault, kind: faults.append(f"{fault} {kind}"))
        return faulty  # type: ignore[no-any-return]

    run_virtual(play("after", crash, wrap))
    assert {"duplicate letters", "delay letters"} <= set(faults)
