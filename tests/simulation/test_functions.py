"""A saga with an approval over three pools, with local steps, sleeps, events, a promise, a call and a child flow: the orchestrator dies at
every journal write, and workers die on the way; the result is the same, and each step is recorded once.

`STEPMESH_SAGA_SLEEP_S` sets how long its sleep is (an hour here; with three days, 259200, all crashes take 36 minutes on one core).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.simulation.deployment_world import Crash, World, until
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.live_bodies import LiveBodies, LiveBody
from stepmesh.durable.steps import Step
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Record, Settled
from stepmesh_orchestrator.core import function_events
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.journal.memory import MemoryJournal

SLEEP_S = int(os.environ.get("STEPMESH_SAGA_SLEEP_S", "3600"))
LIMIT_S = 30_000 + 3 * SLEEP_S
"""Of virtual time."""
SAGA = {"steps": [{"id": "saga", "component": "/py/saga", "input": {"$input": "$"}}], "output": {"$step": "saga"}}
CHILD = {
    "name": "child",
    "version": "3",
    "steps": [
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1s", "passthrough": {"$input": "$"}}},
        {"id": "echo", "component": "/cpu/echo", "input": {"$step": "nap"}},
    ],
    "output": {"$step": "echo"},
}


class Ledger:
    """What local steps really did."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.tokens: set[str] = set()

    def step(self, name: str, seconds: float = 0.0) -> Step[[Any], Any]:
        async def do(value: Any) -> Any:
            self.done[name] += 1
            await asyncio.sleep(seconds)
            return value

        return Step(do, name)


def saga_app(ledger: Ledger, child: str) -> App:
    app = App("py")

    @app.step
    async def ask(token: str) -> None:
        ledger.tokens.add(token)

    @app.step(pool="gpu")
    async def render(n: int) -> int:
        return -n

    charge, reserve, ship = ledger.step("charge"), ledger.step("reserve", 2.0), ledger.step("ship")

    async def saga(order: dict[str, int]) -> dict[str, Any]:
        receipt = await charge(order["n"])
        paid = await wf.wait_for_event("paid", f"o{order['n']}", since=None)
        promise = wf.promise(str, timeout="2h")
        await ask(promise.token)
        stock, picture = await asyncio.gather(reserve(order["n"]), wf.call("/cpu/slow", order["n"]))
        await asyncio.sleep(order["sleep"])
        label = await render(order["n"])
        by = await promise
        inner = await wf.child(child, {"of": receipt})
        try:
            async with asyncio.timeout(5):
                await wf.call("/nobody/never", 1)
        except TimeoutError:
            wf.set("status", "late")
        found = {"inner": inner, "label": label, "paid": paid, "by": by}
        return {"all": [receipt, stock, picture], **found, "sent": await wf.map(ship, [1, 2, 3], limit=2)}

    app.workflow(saga)
    return app


def expected(n: int) -> dict[str, Any]:
    return {"all": [n, n, n], "inner": {"of": n}, "label": -n, "paid": n, "by": "ann", "sent": [1, 2, 3]}


class CrashAt:
    """Dies at the given calls, counted over all lives of the orchestrator."""

    def __init__(self, *at: int) -> None:
        self.at = set(at)
        self.calls = 0

    def __call__(self, partition: int, sequence: int) -> None:
        self.calls += 1
        if self.calls in self.at:
            raise Crash(f"at write {self.calls}")


async def play(journal: MemoryJournal, kill_worker_after: float | None = None, sleep_s: float = SLEEP_S) -> tuple[World, Ledger]:
    world, ledger = World(journal), Ledger()
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    client = await world.client()
    await client.store_flow(CHILD)
    app = saga_app(ledger, "flow://child@3")
    await world.employ(app.worker("gpu"))
    worker = app.worker(concurrency=2)
    running = asyncio.create_task(worker.run(await world.connection()))
    await client.events.send("paid", key="o7", data=7, id="early")
    handle = await client.submit(SAGA, [{"n": number, "sleep": sleep_s} for number in (7, 8)])
    outside = asyncio.create_task(answer(client, ledger))
    if kill_worker_after is not None:
        await asyncio.sleep(kill_worker_after)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        worker = app.worker(concurrency=2)
        running = asyncio.create_task(worker.run(await world.connection()))
    await handle.wait(timeout=20_000 + 2 * sleep_s)
    await outside
    results = [json.loads(item.result).get("result", item.result) async for item in handle.items()]
    assert results == [expected(7), expected(8)]
    worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await world.close(keeper)
    await world.audit()
    await histories_are_whole(world)
    return world, ledger


async def answer(client: Client, ledger: Ledger) -> None:
    """Somebody pays late, and twice; somebody decides, by tokens, and is not sure whether that was heard."""
    await asyncio.sleep(30)
    for _ in range(2):
        await client.events.send("paid", key="o8", data=8, id="late")
    await until(lambda: len(ledger.tokens) == 2)
    for token in [*ledger.tokens] * 2:
        await client.promises.resolve(token, "ann")


async def histories_of(world: World) -> dict[tuple[str, int, int], list[Record]]:
    """By run, item and step, as the journal has them."""
    histories: dict[tuple[str, int, int], list[Record]] = {}
    for partition in await world.journal.partitions():
        async for frame in world.journal.read(partition):
            for event in decode_turn(frame.payload).events:
                if isinstance(event, function_events.HistoryGrew):
                    histories.setdefault((event.run, event.item, event.step), []).extend(event.records)
    return histories


async def histories_are_whole(world: World) -> None:
    """Each command is issued once and settled once at most, and never before it was issued."""
    histories = await histories_of(world)
    assert histories
    for records in histories.values():
        issued = [record.id for record in records if isinstance(record, Issued)]
        settled = [record.id for record in records if isinstance(record, Settled)]
        assert len(set(issued)) == len(issued)
        assert len(set(settled)) == len(settled)
        for place, record in enumerate(records):
            if isinstance(record, Settled):
                assert record.id in [one.id for one in records[:place] if isinstance(one, Issued)]
        assert not any(isinstance(record, CancelAsked) for record in records)
        times = [record.at_ms for record in records if isinstance(record, Settled)]
        assert times == sorted(times)


def writes_of_a_healthy_run() -> int:
    count = CrashAt()
    _, ledger = run_virtual(play(MemoryJournal(before_append=count)), LIMIT_S)
    assert ledger.done == {"charge": 2, "reserve": 2, "ship": 6}, "nothing is done twice without a crash"
    return count.calls


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_single_write_loses_nothing(side: str, first: int) -> None:
    """Every second one, from `first` on."""
    writes = writes_of_a_healthy_run()
    assert writes > 20
    restarts = [run_virtual(play(journal(side, CrashAt(at))), LIMIT_S)[0].restarts for at in range(first, writes + 1, 2)]
    assert sum(restarts) > writes // 2 - 4, "each write is reached, but for some at the end: what shares a write depends on ids"


@pytest.mark.timeout(600)
def test_it_may_sleep_for_three_days() -> None:
    world, _ = run_virtual(play(MemoryJournal(after_append=CrashAt(30)), sleep_s=3 * 86_400), 600_000)
    assert world.restarts == 1


@pytest.mark.parametrize("gap", [1, 3])
def test_a_second_crash_during_the_recovery_loses_nothing(gap: int) -> None:
    for at in range(1, writes_of_a_healthy_run(), 3):
        world, _ = run_virtual(play(journal("after", CrashAt(at, at + gap))), 30_000)
        assert world.restarts >= 1


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 2.5, 100.0, 3_602.5, 3_605.0])
def test_a_worker_that_dies_on_the_way_costs_nothing(seconds: float) -> None:
    run_virtual(play(MemoryJournal(), kill_worker_after=seconds), 30_000)


def test_the_histories_are_the_same_however_many_bodies_stay_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[LiveBody] = []
    take = LiveBodies.take

    def taken(self: LiveBodies, *of: Any) -> LiveBody | None:
        found = take(self, *of)
        resumed.extend([] if found is None else [found])
        return found

    monkeypatch.setattr(LiveBodies, "take", taken)
    found: list[tuple[int, list[list[str]]]] = []
    for most in ("0", "1", "1000"):
        monkeypatch.setenv("STEPMESH_LIVE_FUNCTIONS", most)
        resumed.clear()
        world, ledger = run_virtual(play(MemoryJournal()), 30_000)
        assert ledger.done == {"charge": 2, "reserve": 2, "ship": 6}
        histories = asyncio.run(histories_of(world)).values()
        found.append(
            (len(resumed), sorted(sorted(one.id for one in records if isinstance(one, Issued | Settled)) for records in histories))
        )
    (none, without), (some, evicted), (all_of_them, kept) = found
    assert none == 0 < some < all_of_them
    assert without == evicted == kept


def journal(side: str, hook: Callable[[int, int], None]) -> MemoryJournal:
    return MemoryJournal(before_append=hook) if side == "before" else MemoryJournal(after_append=hook)
