"""Durable functions that failed, or are forked, go on in another run: what was paid for is not done again, whatever dies on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.simulation.deployment_world import Crash, World, until
from tests.simulation.test_functions import CrashAt, histories_of, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client, Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.errors import RequestRefused
from stepmesh.run_control import Changes
from stepmesh_broker.protocol.histories import Issued, TakenOver
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.runtime.function_pasts import past_functions

FLOW = {
    "steps": [
        {"id": "first", "component": "/cpu/echo", "input": {"$input": "$"}},
        {"id": "shop", "component": "/py/shop", "input": {"$step": "first"}},
    ],
    "output": {"$step": "shop"},
}


class Shop:
    """What its steps really did, by name and argument; `broken`: names of those that fail. `mended`: another body is deployed."""

    def __init__(self, *broken: str) -> None:
        self.done: Counter[str] = Counter()
        self.broken = set(broken)
        self.mended = False

    def worker(self) -> Worker:
        app = App("py")
        shop = self

        def do(name: str, value: Any) -> Any:
            shop.done[f"{name} {value}"] += 1
            if name in shop.broken:
                raise ValueError(f"{name} is broken")
            return value

        @app.step
        async def charge(amount: int) -> int:
            return do("charge", amount)

        @app.step
        async def tag(label: str) -> int:
            shop.done["tag"] += 1
            return len(label)

        @app.step
        async def ship(to: int) -> int:
            return do("ship", to)

        @app.step
        async def side(n: int) -> int:
            return do("side", n)

        @app.step
        async def notify(what: str) -> str:
            return do("notify", what)

        @app.step
        async def refund(amount: int) -> int:
            return do("refund", amount)

        async def body(order: dict[str, int]) -> dict[str, Any]:
            stream, updates = wf.stream("progress"), list[int]()

            @wf.update
            def more(n: int) -> int:
                updates.append(n)
                return sum(updates)

            charged = await charge(order["amount"])
            marked = await tag(str(wf.uuid()))
            await stream.write("charged")
            await asyncio.sleep(order.get("sleep", 3_600))
            if shop.mended:
                await notify("mended")
            async with asyncio.timeout(60):
                shipped, echoed, _ = await asyncio.gather(ship(order["to"]), wf.call("/cpu/slow", order["amount"]), side(order["amount"]))
            await notify("shipped")
            return {"charged": charged, "marked": marked, "shipped": shipped, "echoed": echoed, "more": updates}

        async def undone(order: dict[str, int]) -> int:
            await side(1)
            async with wf.saga() as saga:
                charged = await charge(order["amount"])
                saga.undo(refund, charged)
                return await ship(order["to"])

        async def handled(order: dict[str, int]) -> int:
            try:
                await side(1)
            except Exception:
                await notify("no side")
            await charge(order["amount"])
            return await ship(order["to"])

        for name, made in (("shop", body), ("undone", undone), ("handled", handled)):
            app.workflow(made, name=name)
        return app.worker(concurrency=2)


ORDER = {"amount": 7, "to": 1}


@asynccontextmanager
async def opened(shop: Shop, memory: MemoryJournal | None = None) -> AsyncIterator[tuple[World, Client]]:
    world = World(memory)
    keeper = asyncio.create_task(world.keep_node_alive())
    await world.start_worker()
    await world.employ(shop.worker())
    try:
        yield world, await world.client()
    finally:
        await world.close(keeper)


async def failed(client: Client, flow: dict[str, Any] | None = None, key: str = "once") -> Any:
    handle = await client.submit(flow or FLOW, [ORDER], run_key=key)
    assert (await handle.wait(timeout=20_000)).summary.status == "failed"
    return handle


async def issued(world: World, run: str, step: int = 1) -> set[str]:
    """What a function asked for in this run itself, but for time limits."""
    records = (await histories_of(world))[run, 0, step]
    return {record.id for record in records if isinstance(record, Issued) and record.name != "timer"}


def of(component: str) -> dict[str, Any]:
    return {"steps": [{"id": "it", "component": f"/py/{component}", "input": {"$input": "$"}}], "output": {"$step": "it"}}


async def retry(memory: MemoryJournal) -> World:
    shop = Shop("ship")
    async with opened(shop, memory) as (world, client):
        handle = await failed(client)
        await asyncio.sleep(100)
        shop.broken.clear()
        before = +shop.done
        again = await client.control.retry(handle.id, key="again")
        found = await client.handle(again.run).result(timeout=20_000)
        assert found == {"charged": 7, "marked": 36, "shipped": 1, "echoed": 7, "more": []}
        now = shop.done - before
        assert (now["charge 7"], now["tag"], now["side 7"]) == (0, 0, 0), "what succeeded is not done again"
        assert min(now["ship 1"], now["notify shipped"]) >= 1
        assert await issued(world, again.run) == {"r.1/ship", "r.2//cpu/slow", "r.3/side", "r/notify"}
    await world.audit()
    return world


def test_a_retry_begins_with_the_failed_step() -> None:
    world = run_virtual(retry(MemoryJournal()), 60_000)
    assert world.restarts == 0


@pytest.mark.parametrize(("first", "side"), [(1, "before"), (2, "before"), (1, "after"), (2, "after")])
def test_a_crash_at_any_write_of_a_retry_repeats_nothing(side: str, first: int) -> None:
    """Every second one, from `first` on."""
    count = CrashAt()
    run_virtual(retry(MemoryJournal(before_append=count)), 60_000)
    assert count.calls > 15
    for at in range(first, count.calls + 1, 2):
        assert run_virtual(retry(journal(side, CrashAt(at))), 60_000).restarts <= 1


def test_a_retry_of_a_retry_goes_on_from_there() -> None:
    async def played() -> None:
        shop = Shop("ship")
        async with opened(shop) as (_, client):
            first = await failed(client)
            second = await client.control.retry(first.id)
            assert (await client.handle(second.run).wait(timeout=20_000)).summary.status == "failed"
            assert shop.done["ship 1"] == 2, "it was tried again, though its time limit had passed"
            shop.broken.clear()
            third = await client.control.retry(second.run)
            assert (await client.handle(third.run).result(timeout=20_000))["charged"] == 7
            assert (shop.done["charge 7"], shop.done["tag"], shop.done["side 7"]) == (1, 1, 1)

    run_virtual(played(), 60_000)


def test_a_fork_with_another_input_repeats_what_has_other_arguments() -> None:
    async def played() -> None:
        shop = Shop()
        async with opened(shop) as (world, client):
            handle = await client.submit(FLOW, [ORDER])
            await handle.wait(timeout=20_000)
            fork = await client.control.fork(handle.id, changes=Changes(inputs=[{"amount": 7, "to": 2, "sleep": 1}]))
            assert (await client.handle(fork.run).result(timeout=20_000))["shipped"] == 2
            assert (shop.done["charge 7"], shop.done["side 7"], shop.done["notify shipped"]) == (1, 1, 1), "same arguments"
            assert (shop.done["ship 1"], shop.done["ship 2"], shop.done["tag"]) == (1, 1, 2), "other ones; an id made by chance is one"
            assert fork.reused == 6, "of the function: charge, tag, ship, side, the call and notify"
            assert not [key for key in world.executions if key[0] == fork.run and key[2] == "call"], "nor is what another pool did"

    run_virtual(played(), 60_000)


def test_a_fork_from_a_command_repeats_that_and_what_came_of_it() -> None:
    async def played() -> None:
        shop = Shop()
        async with opened(shop) as (_, client):
            handle = await client.submit(FLOW, [ORDER])
            found = await handle.result(timeout=20_000)
            for name in ("shop:r/tag", "r/tag"):
                shop.done.clear()
                fork = await client.control.fork(handle.id, from_step=name)
                assert await client.handle(fork.run).result(timeout=20_000) == found
                assert +shop.done == {"tag": 1, "ship 1": 1, "side 7": 1, "notify shipped": 1}
            shop.done.clear()
            fork = await client.control.fork(handle.id, from_step="shop:r.3/side")
            assert await client.handle(fork.run).result(timeout=20_000) == found
            assert +shop.done == {"side 7": 1, "notify shipped": 1}, "the others of the gather had been asked for before"
            for name in ("shop:r/nothing", "r/progress", "first:r/tag"):
                with pytest.raises(RequestRefused) as refusal:
                    await client.control.fork(handle.id, from_step=name)
                assert refusal.value.code == "SM-1080"

    run_virtual(played(), 60_000)


def test_what_a_saga_undid_is_done_again() -> None:
    async def played() -> None:
        shop = Shop("ship")
        async with opened(shop) as (_, client):
            handle = await failed(client, of("undone"))
            assert +shop.done == {"side 1": 1, "charge 7": 1, "ship 1": 1, "refund 7": 1}
            shop.broken.clear()
            again = await client.control.retry(handle.id)
            assert await client.handle(again.run).result(timeout=1_000) == 1
            assert +shop.done == {"side 1": 1, "charge 7": 2, "ship 1": 2, "refund 7": 1}

    run_virtual(played(), 60_000)


def test_a_failure_that_the_function_went_on_after_is_not_tried_again() -> None:
    async def played() -> None:
        shop = Shop("side", "ship")
        async with opened(shop) as (_, client):
            handle = await failed(client, of("handled"))
            shop.broken.clear()
            again = await client.control.retry(handle.id)
            assert await client.handle(again.run).result(timeout=1_000) == 1
            assert +shop.done == {"side 1": 1, "notify no side": 1, "charge 7": 1, "ship 1": 2}

    run_virtual(played(), 60_000)


async def mended(memory: MemoryJournal) -> World:
    """The body was changed before the place where it failed."""
    shop = Shop("ship")
    async with opened(shop, memory) as (world, client):
        handle = await failed(client)
        shop.broken.clear()
        before, shop.mended = +shop.done, True
        again = await client.control.retry(handle.id, key="again")
        found = await client.handle(again.run).result(timeout=20_000)
        assert found["shipped"] == 1
        now = shop.done - before
        assert (now["charge 7"], now["side 7"]) == (0, 0), "what succeeded is not done again"
        assert min(now["notify mended"], now["tag"]) >= 1
        assert "r/charge" in await issued(world, again.run)
    await world.audit()
    return world


def test_other_code_begins_anew_and_keeps_the_results() -> None:
    count = CrashAt()
    run_virtual(mended(MemoryJournal(before_append=count)), 60_000)
    for at in range(1, count.calls + 1, 2):
        run_virtual(mended(journal("after", CrashAt(at))), 60_000)


def test_a_cancelled_function_goes_on_where_it_was() -> None:
    async def played() -> None:
        shop = Shop()
        async with opened(shop) as (world, client):
            handle = await client.submit(FLOW, [ORDER])
            assert await handle.update("more", 4, timeout=100) == 4
            await asyncio.sleep(600)
            await client.cancel(handle.id)
            await handle.wait(timeout=100)
            again = await client.control.retry(handle.id)
            loop = asyncio.get_running_loop()
            began = loop.time()
            found = await client.handle(again.run).result(timeout=20_000)
            assert 2_900 < loop.time() - began < 3_100, "what is left of an hour"
            assert found["more"] == [4]
            assert (shop.done["charge 7"], shop.done["tag"]) == (1, 1)
            (marker,) = [one for one in (await taken_over(world, again.run)) if isinstance(one, TakenOver)]
            assert marker.kept == 0

    run_virtual(played(), 60_000)


async def taken_over(world: World, run: str) -> list[Any]:
    """The history of a live or ended run's function, with what stands before its own."""
    row = await world.store.get_run(RunId(run))
    assert row is not None
    found = await past_functions(world.journal, row)
    assert found is not None
    return found[0, 1].function.records


def test_what_is_to_be_taken_over_outlives_dormancy_and_a_restart() -> None:
    nap = {"id": "first", "component": "/builtin/sleep", "input": {"duration": "1h", "passthrough": {"$input": "$"}}}
    flow = {**FLOW, "steps": [nap, FLOW["steps"][1]]}

    async def played() -> None:
        shop = Shop()
        async with opened(shop) as (world, client):
            handle = await client.submit(flow, [ORDER])
            await handle.wait(timeout=20_000)
            fork = await client.control.fork(handle.id, changes=Changes(inputs=[{"amount": 7, "to": 2, "sleep": 1}]))
            await until(lambda: fork.run in world.dormant())
            assert world.node is not None
            await world.node.partitions[Partition(0)].shard.snapshot()
            world.node.ended.set_exception(Crash("on purpose"))
            await until(lambda: world.restarts)
            assert (await client.handle(fork.run).result(timeout=20_000))["shipped"] == 2
            assert (shop.done["charge 7"], shop.done["ship 2"]) == (1, 1)
        await world.audit()

    run_virtual(played(), 60_000)
