"""The orchestrator dies at every journal write while schedules start runs: each due time is met once, or passed over for a reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_crash_every_write import CrashAt, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core import events as ev
from stepmesh_orchestrator.core import schedule_events
from stepmesh_orchestrator.journal.memory import MemoryJournal

QUICK: dict[str, Any] = {"name": "quick", "steps": [{"id": "a", "component": "/cpu/echo", "input": 1}], "output": {"$step": "a"}}
LONG: dict[str, Any] = {
    "name": "long",
    "steps": [{"id": "a", "component": "/builtin/sleep", "input": {"duration": "25s"}}],
    "output": {"$step": "a"},
}
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (QUICK, {}),
    "all": (QUICK, {"overlap": "allow", "catch_up": "all"}),
    "buffered": (LONG, {"overlap": "buffer_one"}),
    "ending": (LONG, {"overlap": "cancel_other"}),
}
DUE = 5


async def play(kept: MemoryJournal) -> World:
    """Four schedules that are due five times each, paused and resumed once."""
    world = World(kept)
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    client = await world.client()
    begun = world.clock.now_ms()
    for name, (flow, policy) in SCHEDULES.items():
        await client.schedules.create(name, flow, every=10, anchor=_at(begun + 10_000), until=_at(begun + DUE * 10_000), **policy)
    await asyncio.sleep(15)
    await client.schedules.pause("plain")
    await client.schedules.resume("plain")
    await client.schedules.trigger("plain")
    await client.schedules.backfill("plain", _at(begun + 10_000), _at(begun + 20_000), "key")
    await asyncio.sleep(60)
    await until(lambda: _over(world))
    for name in SCHEDULES:
        info = await client.schedules.get(name)
        assert (info.status, info.live, info.waiting_ms) == ("finished", [], None)
    await world.close(keeper)
    await world.audit()
    await audit(world)
    return world


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _over(world: World) -> bool:
    service = None if world.node is None else world.node.partitions.get(Partition(0))
    return service is not None and not service.shard.session.state.runs and not service.shard.session.state.dormant


async def audit(world: World) -> None:
    """By the journal: the five due times of each, and their runs."""
    met: dict[str, Counter[int]] = {name: Counter() for name in SCHEDULES}
    passed: Counter[str] = Counter()
    manual: Counter[str] = Counter()
    created: set[str] = set()
    async for frame in world.journal.read(Partition(0)):
        for event in ev.decode_turn(frame.payload).events:
            if isinstance(event, ev.RunCreated):
                created.add(event.run)
            elif isinstance(event, schedule_events.ScheduleFired):
                assert event.started in created, "its run stands just before it"
                if event.manual:
                    manual[event.schedule] += 1
                else:
                    met[event.schedule][event.due_ms] += 1
            elif isinstance(event, schedule_events.ScheduleSkipped):
                passed[event.schedule] += event.count
    assert all(count == 1 for counts in met.values() for count in counts.values()), "a due time was met twice"
    assert {name: len(met[name]) + passed[name] for name in SCHEDULES} == dict.fromkeys(SCHEDULES, DUE)
    assert (len(met["all"]), len(met["ending"]), dict(manual)) == (DUE, DUE, {"plain": 3})


def writes_of_a_healthy_run() -> int:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count)))
    return count.calls


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_write_meets_no_due_time_twice_and_loses_none(side: str) -> None:
    writes = writes_of_a_healthy_run()
    assert writes > 20
    restarts = [run_virtual(play(journal(side, CrashAt(at)))).restarts for at in range(1, writes + 1)]
    assert sum(restarts) > writes - 5, "each write is reached, but for some at the end: what shares a write depends on ids"


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_second_crash_during_the_recovery_does_not_either(side: str) -> None:
    for at in range(1, writes_of_a_healthy_run(), 3):
        world = run_virtual(play(journal(side, CrashAt(at, at + 1))))
        assert world.restarts >= 1
