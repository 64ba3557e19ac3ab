"""Updates of a function that begins anew again and again: each is replied to once, by the one that heard it, whatever dies on the way."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.test_builds import Fleets
from tests.simulation.test_functions import CrashAt, journal
from tests.simulation.virtual_loop import run_virtual
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.errors import RequestRefused, UpdateFailed
from stepmesh_broker.protocol.histories import Issued, Kind, UpdateAsked
from stepmesh_broker.protocol.messages import AskUpdate, ErrorCode, UpdateTaken
from stepmesh_orchestrator.core.commands import UpdateFunction
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.functions import MAX_HEARD
from stepmesh_orchestrator.core.snapshot import state_hash
from stepmesh_orchestrator.journal.memory import MemoryJournal

COUNTER = {"steps": [{"id": "till", "component": "/py/counter", "input": {"$input": "$"}}], "output": {"$step": "till"}}
MANY = 12


def counting() -> Worker:
    app = App("py")

    @app.workflow
    async def counter(total: int) -> int:
        changed, before = asyncio.Event(), total

        @wf.update
        def add(n: int) -> int:
            nonlocal total
            total += n
            changed.set()
            return total

        @wf.update
        async def never() -> None:
            await wf.wait_for_event("never")

        await changed.wait()
        if total < MANY:
            wf.continue_as_new(total)
        return total if total > before else -1

    return app.worker(concurrency=2)


async def play(memory: MemoryJournal) -> World:
    world = World(memory)
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.employ(counting())
    client = await world.client()
    handle = await client.submit(COUNTER, [0], run_key="once")
    stuck = asyncio.create_task(handle.update("never", id="stuck", timeout=1_000))
    await asyncio.sleep(1)
    adding = [handle.update("add", 1, id=f"add {number}", timeout=1_000) for number in range(MANY)]
    assert sorted(await asyncio.gather(*adding)) == list(range(1, MANY + 1)), "none is lost, none is done twice"
    with pytest.raises((UpdateFailed, RequestRefused) if world.restarts else UpdateFailed, match=r"began anew|ended before|is over"):
        await stuck
    assert await handle.result(timeout=1_000) == MANY
    await world.close(keeper)
    await world.audit()
    return world


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_write_loses_and_repeats_no_update(side: str) -> None:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count)), 30_000)
    assert count.calls > 8
    for at in range(1, count.calls + 1):
        run_virtual(play(journal(side, CrashAt(at))), 30_000)


def update(body: Body, id: str) -> UpdateTaken:
    body.send(UpdateFunction(AskUpdate(body.run, id, "add", b"1", 0, "f")))
    (answered,) = [effect for effect in body.new_effects if isinstance(effect, Answered)]
    assert isinstance(answered.answer, UpdateTaken)
    return answered.answer


def test_updates_that_the_body_did_not_hear_of_are_for_the_next_one() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000))
    for id in ("done", "begun", "late"):
        update(body, id)
    heard = 4
    body.turn(issued("u.1/done", Kind.REPLY, {"value": 1}, name="done"), base=2)
    body.turn(continued=b"2", base=heard)
    lost = [record for record in body.history() if isinstance(record, Issued) and record.name == "begun"]
    assert [record.kind for record in lost] == [Kind.REPLY]
    assert b'"code":%d' % ErrorCode.CANCELLED in lost[0].arguments
    function = body.state.runs[body.run].items[0].function(0)
    assert function is not None
    assert [record.id for record in function.records if isinstance(record, UpdateAsked)] == ["late"]
    before, known = state_hash(body.state), len(function.records)
    for id in ("done", "begun", "late"):
        assert update(body, id).existing, "known by its id still"
    assert (state_hash(body.state), len(function.records)) == (before, known)
    assert not update(body, "new").existing


@pytest.mark.parametrize(("between", "known"), [(MAX_HEARD - 1, True), (MAX_HEARD, False)])
def test_only_the_newest_updates_are_known_after_it_began_anew(between: int, known: bool) -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000))
    for id in ("first", *map(str, range(between))):
        update(body, id)
    body.turn(continued=b"2", base=2 + 1 + between)
    assert update(body, "first").existing == known


def till_that_checks(name: str) -> App:
    """A till that looks at what it is paid with; with another name for that it does not fit a history of the first one."""
    app = App("py")

    @app.workflow(version=name)
    async def counter(total: int) -> int:
        @wf.update
        async def pay(coins: int) -> int:
            await wf.wait_for_event("looked", str(coins))
            return await wf.run(name, lambda: total + coins)

        await wf.run(name, lambda: None)
        await wf.wait_for_event("closed")
        return total

    return app


def test_the_reply_after_a_block_is_had_by_asking_again() -> None:
    async def played() -> None:
        world = Fleets()
        await world.start_node()
        await world.start("blue", till_that_checks("weigh").worker(namespace=world.namespace))
        client = await world.client()
        handle = await client.submit(COUNTER, [1])
        asking = asyncio.create_task(handle.update("pay", 2, id="u1"))
        await asyncio.sleep(5)
        await world.retire("blue")
        await world.start("green", till_that_checks("count").worker(namespace=world.namespace))
        await client.events.send("looked", key="2", id="e1")
        for told in (asking, handle.update("pay", 2, id="u1")):
            with pytest.raises(UpdateFailed) as blocked:
                await told
            assert blocked.value.code == "SM-1074"
        await world.start("blue", till_that_checks("weigh").worker(namespace=world.namespace))
        assert await handle.update("pay", 2, id="u1") == 3
        assert await handle.update("pay", 2, id="u1") == 3, "and whoever asks later hears it, too"
        await client.events.send("closed", key=handle.id, id="e2")
        assert await handle.result(60) == 1
        await world.end()

    run_virtual(played())
