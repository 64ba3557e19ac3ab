"""Records of the events topic while the orchestrator dies at every journal write: each event is kept once, none is lost, and what is no
event is a dead letter."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.test_crash_every_write import CrashAt, journal
from tests.simulation.test_events import EventWorld
from tests.simulation.virtual_loop import run_virtual

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.records import Topic
from stepmesh_orchestrator.core.events import EventReceived, decode_turn

WAIT = {
    "name": "wait",
    "steps": [
        {"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": {"$input": "$"}, "since": "1h"}},
        {"id": "own", "component": "/builtin/wait_for_event", "input": {"name": "sent"}},
    ],
    "output": [{"$step": "w"}, {"$step": "own"}],
}
KEYS = ("a", "b", "c")


async def play(side: str, crash: CrashAt) -> EventWorld:
    """Events by key come before anybody waits, and twice; those by run afterwards, without an id of their own."""
    world = EventWorld(journal(side, crash))
    keeper = asyncio.create_task(world.keep_node_alive())
    client, topic = await world.client(), world.bus.streams(Namespace("default"))
    for key in KEYS * 2:
        topic.write(Topic.EVENTS, b'{"name": "paid", "id": "e-%s", "data": "%s"}' % (key.encode(), key.encode()), key)
    topic.write(Topic.EVENTS, b"nonsense")
    handles = [await client.submit(WAIT, [key], run_key=key) for key in KEYS]
    for handle in handles:
        topic.write(Topic.EVENTS, b'{"name": "sent", "run": "%s", "data": 1}' % handle.id.encode())
    assert [await handle.result(timeout=1_200) for handle in handles] == [[key, 1] for key in KEYS]
    crash.at.clear()
    await world.close(keeper)
    await world.audit()
    await world.check_once()
    assert {(one.data, one.reason[:7]) for one in topic.parked.values()} == {(b"nonsense", "SM-5020")}
    assert await kept(world) == sorted([*(f"paid/{key}" for key in KEYS), *(f"sent/{handle.id}" for handle in handles)])
    return world


async def kept(world: EventWorld) -> list[str]:
    """By address, as often as the journals have them."""
    found: list[str] = []
    for partition in await world.journal.partitions():
        async for frame in world.journal.read(partition):
            found += [f"{one.name}/{one.key}" for one in decode_turn(frame.payload).events if isinstance(one, EventReceived)]
    return sorted(found)


def test_without_faults() -> None:
    world = run_virtual(play("before", CrashAt()))
    assert world.restarts == 0


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_journal_write_loses_no_record_and_doubles_none(side: str) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        crash = CrashAt(at)
        run_virtual(play(side, crash))
        reached = crash.calls >= at
    assert at > 10
