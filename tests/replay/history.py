"""Recorded journals as files: what a release wrote, so that every later one is tested to read it the same.

`python -m tests.replay.history NAME` records one with today's engine. A recorded file is never changed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from tests.replay.resumed import going_on
from tests.replay.scheduled import schedules
from tests.simulation.deployment_world import World
from tests.simulation.test_crash_every_write import FLOW
from tests.simulation.test_gates import Partitioned
from tests.simulation.virtual_loop import LoopTimeClock, run_virtual

from stepmesh import ResourceUnavailable, Worker
from stepmesh.client import Client
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.retrying import Retry
from stepmesh.run_control import Changes
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.letters import Letters
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitReturn
from stepmesh_orchestrator.core.events import RunCreated, decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_needed
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.snapshot import state_hash
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.ports import FlowRecord
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.store.memory import MemoryStore

FOLDER = Path(__file__).parent / "histories"
FAILING = {
    "name": "what goes wrong",
    "steps": [
        {"id": "off", "component": "/cpu/echo", "input": 1, "skip": {"$input": "skip"}},
        {
            "id": "bad",
            "component": "/cpu/unknown",
            "input": {"$input": "$"},
            "onError": {"action": "useDefault", "defaultValue": {"$error": "code"}},
        },
        {"id": "slow", "component": "/cpu/slow", "input": 1},
        {
            "id": "late",
            "component": "/cpu/unknown",
            "input": 2,
            "onError": {"action": "useDefault", "defaultValue": {"$step": "slow"}},
        },
        {"id": "lost", "component": "/cpu/echo", "input": {"$step": "bad", "path": "$.nowhere"}, "mustExecute": True},
    ],
    "output": {
        "off": {"$step": "off", "onSkip": {"action": "useDefault", "defaultValue": "skipped"}},
        "bad": {"$step": "bad"},
        "late": {"$step": "late"},
    },
}

NAP = {
    "name": "long naps",
    "steps": [
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "5m", "passthrough": {"$input": "n"}}},
        {
            "id": "inner",
            "component": "/builtin/eval",
            "input": {
                "flow": {
                    "$literal": {
                        "steps": [
                            {"id": "deep", "component": "/builtin/sleep", "input": {"duration": "10m", "passthrough": {"$input": "$"}}}
                        ],
                        "output": {"$step": "deep"},
                    }
                },
                "input": {"$step": "nap"},
            },
        },
    ],
    "output": {"$step": "inner", "path": "result"},
}
"""Dormant twice: alone, and with its sub-run."""


WAITS = {
    "name": "waits",
    "steps": [
        {"id": "paid", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": "o1"}},
        {"id": "more", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": {"$if": {"$step": "paid"}, "then": "o1"}}},
        {"id": "ok", "component": "/builtin/approval", "input": {"timeout": "10m"}, "onError": {"action": "useDefault", "defaultValue": 0}},
    ],
    "output": [{"$step": "paid"}, {"$step": "more"}, {"$step": "ok"}],
}
"""Two events, one of them when it is dormant, and an approval that nobody gives."""


async def hashes(frames: list[bytes], flows: FlowRegistry) -> list[str]:
    """The state's hash after each frame."""
    state = State(Partition(0))
    found: list[str] = []
    for sequence, payload in enumerate(frames, start=1):
        turn = decode_turn(payload)
        for event in turn.events:
            for flow, overrides in flows_needed(event):
                await flows.load(flow, overrides)
            apply(state, event, turn.at_ms, flows, [])
        state.sequence, state.inbox, state.confirmed = sequence, turn.inbox, turn.confirmed
        found.append(state_hash(state))
    return found


async def record(name: str) -> dict[str, object]:
    """By what its name begins with."""
    world = Partitioned(MemoryJournal()) if name.endswith("doubted") else World(MemoryJournal())
    await world.start_node()
    await world.start_worker()
    parts = {"over": taking_over, "doubted": doubting, "resumed": going_on}
    await parts.get(name.rpartition("-")[2], everything)(world, await world.client())
    await world.close()
    return await recorded(world)


async def everything(world: World, client: Client) -> None:
    """Chain, retries, sleep, dormancy, map, skip, default, failure, cancel, deletion, events, schedules."""
    for flow, inputs in ((FLOW, [{"n": 1}, {"n": 2}]), (FAILING, [{"skip": True}, {"skip": False}])):
        handle = await client.submit(flow, inputs, run_key=str(flow["name"]), tags={"kind": "golden"})
        await handle.wait(timeout=100)
    naps = [await client.submit(NAP, [{"n": 5}]), await client.submit(NAP, [{"n": 6}])]
    await asyncio.sleep(60)
    await client.cancel(naps[1].id)
    await naps[0].wait(timeout=2_000)
    waits = [await client.submit(WAITS, [None]) for _ in range(2)]
    await client.events.send("paid", key="o1", data=1, id="first")
    await asyncio.sleep(60)
    await client.events.send("paid", key="o1", data={"n": 2})
    await client.cancel(waits[1].id)
    await waits[0].wait(timeout=4_000)
    slow = await client.submit(FLOW, [{"n": 3}])
    await asyncio.sleep(1)
    await client.cancel(slow.id)
    await client.requests.ask(api.DeleteRun(slow.id), api.Deleted)
    await control(client)
    await schedules(world, client)
    await gates(client)
    await breakers(world, client)
    await functions(world, client)


async def recorded(world: World) -> dict[str, object]:
    """As it is kept."""
    frames = [frame.payload async for frame in world.journal.read(Partition(0))]
    flows = FlowRegistry(world.store, world.clock)
    documents: dict[str, str] = {}
    for payload in frames:
        for event in decode_turn(payload).events:
            if isinstance(event, RunCreated):
                flow = await flows.load(event.flow)
                assert flow is not None
                documents[event.flow] = flow.document.decode()
    return {"flows": documents, "frames": [base64.b64encode(frame).decode() for frame in frames], "hashes": await hashes(frames, flows)}


async def control(client: Client) -> None:
    """A run that is paused, woken and goes on, and one that takes over its results."""
    paused = await client.submit(NAP, [{"n": 7}])
    await client.control.pause(paused.id, "look")
    await client.control.wake(paused.id)
    await client.control.resume(paused.id)
    await paused.wait(timeout=2_000)
    fork = await client.control.fork(paused.id, from_step="inner")
    await client.handle(fork.run).wait(timeout=2_000)


async def gates(client: Client) -> None:
    """Runs that wait for a place and for their part of a rate, one that a later one ends, one that is skipped, and steps with a key."""
    steps = [{"id": "a", "component": "/cpu/slow", "input": 1, "concurrencyKey": "one"}, {"id": "b", "component": "/cpu/echo", "input": 2}]
    limited = {
        "name": "limited",
        "concurrency": {"limit": 1},
        "throttle": "1/5s",
        "steps": steps,
        "output": [{"$step": "a"}, {"$step": "b"}],
    }
    last = {**limited, "name": "last", "concurrency": {"policy": "cancel_previous"}}
    first = {**limited, "name": "first", "concurrency": {"policy": "skip"}}
    late = {**limited, "name": "late", "debounce": {"period": "20s"}}
    for flow in (limited, last, first, late):
        runs = [await client.submit(flow, [None, 1], priority=number) for number in range(3)]
        for run in runs:
            await run.wait(timeout=2_000)


async def breakers(world: World, client: Client) -> None:
    """A component that is not there for a while: its breaker opens, lets one attempt through, and closes."""
    worker, calls = Worker(pool="far"), Counter[str]()

    @worker.component
    async def busy(value: Any) -> Any:
        calls["busy"] += 1
        if calls["busy"] <= 12:
            raise ResourceUnavailable("not now")
        return value

    running = asyncio.create_task(worker.run(await world.connection()))
    steps = [{"id": "busy", "component": "/far/busy", "input": 1, "onError": {"action": "retry", "maxRetries": 20}}]
    handle = await client.submit({"steps": steps, "output": {"$step": "busy"}}, [None] * 12, max_concurrency=0)
    assert (await handle.wait(timeout=5_000)).summary.status == "completed"
    worker.stop()
    await running


async def functions(world: World, client: Client) -> None:
    """Durable functions: one that sleeps, waits and begins anew, one that is cancelled while it sleeps, and undoes what it did."""
    app = App("py")

    @app.step(retry=Retry(max=2, backoff="1m"))
    async def book(n: int) -> int:
        if n == 1 and wf.step().attempt == 1:
            raise RuntimeError("full")
        return n

    @app.workflow
    async def trip(n: int) -> Any:
        async with wf.saga() as saga:
            booked = await book(n)
            saga.undo(book, -n)
            await asyncio.sleep(600)
            if n < 2:
                wf.continue_as_new(n + 1)
            return [booked, await wf.wait_for_event("paid", "o2", since=None), await wf.call("/cpu/echo", wf.now().isoformat())]

    worker = app.worker()
    running = asyncio.create_task(worker.run(await world.connection()))
    there = await client.submit(trip, [1])
    gone = await client.submit(trip, [5])
    await client.events.send("paid", key="o2", data=1, id="second")
    await asyncio.sleep(60)
    await client.cancel(gone.id)
    await gone.wait(timeout=100)
    assert (await there.wait(timeout=5_000)).summary.status == "completed"
    worker.stop()
    await running


async def taking_over(world: World, client: Client) -> None:
    """A durable function that fails goes on in another run; in a third one, whose code is another, only results are taken over; and in a
    fourth one, with another input."""
    app, state = App("py"), {"broken": True, "mended": False}

    @app.step
    async def pay(n: int) -> int:
        return n

    @app.step
    async def ship(n: int) -> int:
        if state["broken"]:
            raise RuntimeError("no ship")
        return n

    @app.workflow
    async def order(n: int) -> int:
        await pay(n)
        await asyncio.sleep(60)
        if state["mended"]:
            await pay(0)
        return await ship(1)

    worker = app.worker()
    running = asyncio.create_task(worker.run(await world.connection()))
    first = await client.submit(order, [3, 4])
    assert (await first.wait(timeout=500)).summary.status == "failed"
    second = await client.control.retry(first.id)
    assert (await client.handle(second.run).wait(timeout=500)).summary.status == "failed"
    state.update(broken=False, mended=True)
    third = await client.control.retry(second.run)
    assert (await client.handle(third.run).wait(timeout=500)).summary.status == "completed"
    fourth = await client.control.fork(first.id, changes=Changes(inputs=[3, 5]))
    assert (await client.handle(fourth.run).wait(timeout=500)).summary.status == "completed"
    worker.stop()
    await running


async def doubting(world: World, client: Client) -> None:
    """The first partition, home of a key, is told that somebody is gone, and late of what was asked before that."""
    connection, key, other = await world.connection(), "default/limited/concurrency/0", Partition(1)
    gone, late = RunId("01900000-0000-7000-8000-000000000001"), RunId("01900000-0000-7000-8000-000000000002")
    rule: list[int | str] = [1, "queue", 0, 0, 0, 0]
    told = (PermitAsk(key, gone, other, rule, 10), PermitReturn(key, gone, other, 30), PermitAsk(key, late, other, rule, 20))
    for letter in told:
        await connection.post(Partition(0), msgspec.msgpack.encode(Letters(other, [letter])))
        await asyncio.sleep(1)


async def replay(history: dict[str, object]) -> list[str]:
    """The hashes that today's engine finds."""
    store = MemoryStore()
    flows: dict[str, str] = history["flows"]  # type: ignore[assignment]  # as recorded
    for name, document in flows.items():
        await store.put_flow(FlowRecord(name, "", document.encode(), 0))  # type: ignore[arg-type]  # an id
    frames: list[str] = history["frames"]  # type: ignore[assignment]  # as recorded
    return await hashes([base64.b64decode(frame) for frame in frames], FlowRegistry(store, LoopTimeClock()))


if __name__ == "__main__":
    target = FOLDER / f"{sys.argv[1]}.json"
    if target.exists():
        raise SystemExit(f"{target} exists; a recorded history is never changed")
    target.write_text(json.dumps(run_virtual(record(sys.argv[1]), 20_000), indent=1) + "\n")
