"""Updates and streams of durable functions: an orchestrator that dies at any write, workers that die on the way, requests that are repeated
because of it; each update is one record with one reply, and a stream is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.test_functions import CrashAt, histories_are_whole, histories_of, journal
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Client, Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.errors import RequestRefused, UpdateFailed, WaitTimeout
from stepmesh.runs import RunHandle
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import decode_control, encode
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Record, Settled, UpdateAsked
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.queries import HistoryPage, QueryAnswer, ReadHistory
from stepmesh_broker.protocol.subjects import Subject
from stepmesh_orchestrator.core.events import PER_FRAME
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.runtime.questions import Questions

TILL = {"steps": [{"id": "till", "component": "/py/till", "input": {"$input": "$"}}], "output": {"$step": "till"}}

NAP = {"steps": [{"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1h"}}], "output": {"$step": "nap"}}


def till_worker() -> Worker:
    app = App("py")

    @app.step
    async def count(coins: int) -> int:
        return coins * 2

    async def till(start: int) -> list[int]:
        sums, closed = [start], asyncio.Event()

        @wf.update
        async def pay(coins: int) -> int:
            sums.append(await count(coins))
            await wf.stream("sums").write(sums[-1])
            await wf.stream("sums").write(len(sums))
            return sum(sums)

        @wf.update
        def refuse(coins: int) -> None:
            raise ValueError(f"{coins} is too much")

        @wf.query
        def state(of: int = 0, more: int = 0) -> dict[str, int]:
            return {"paid": len(sums) - 1, "of": of}

        @wf.query
        def mean() -> float:
            return sum(sums) / (len(sums) - len(sums))

        @wf.query
        def sleepy() -> None:
            wf.set("asked", 1)

        @wf.update
        def close() -> str:
            closed.set()
            return "closed"

        await closed.wait()
        return sums

    app.workflow(till)
    return app.worker(concurrency=2)


async def play(journal: MemoryJournal, kill_worker_after: float | None = None) -> World:
    world = World(journal)
    keeper = asyncio.create_task(world.keep_node_alive())
    worker = till_worker()
    running = asyncio.create_task(worker.run(await world.connection()))
    client = await world.client()
    handle = await client.submit(TILL, [1])
    asking = asyncio.create_task(ask(client, handle))
    if kill_worker_after is not None:
        await asyncio.sleep(kill_worker_after)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        worker = till_worker()
        running = asyncio.create_task(worker.run(await world.connection()))
    await asking
    assert await handle.result(timeout=20_000) == [1, 10, 12]
    streamed = [value async for value in handle.stream("sums")]
    assert [value.value for value in streamed] == [10, 2, 12, 3]
    for place, value in enumerate(streamed):
        rest = [one.value async for one in handle.stream("sums", value.cursor)]
        assert rest == [10, 2, 12, 3][place + 1 :], "nothing twice, nothing missed, also within one event"
    worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await world.close(keeper)
    await world.audit()
    await histories_are_whole(world)
    await updates_are_answered_once(world)
    return world


async def ask(client: Client, handle: RunHandle) -> None:
    assert await handle.update("pay", 5, id="first", timeout=1_000) == 11
    assert await handle.update("pay", 5, id="first", timeout=1_000) == 11, "the same update"
    assert await handle.query("state") == {"paid": 1, "of": 0}
    assert await handle.query("state", {"of": 3}) == {"paid": 1, "of": 3}
    await asyncio.sleep(100)
    with pytest.raises(UpdateFailed, match="7 is too much"):
        await client.handle(handle.id).update("refuse", 7, timeout=1_000)
    assert await handle.update("pay", 6, timeout=1_000) == 23
    assert await handle.update("close", timeout=1_000) == "closed"


async def updates_are_answered_once(world: World) -> None:
    (records,) = (await histories_of(world)).values()
    asked = [record.id for record in records if isinstance(record, UpdateAsked)]
    replied = [record.name for record in records if isinstance(record, Issued) and record.kind is Kind.REPLY]
    assert len(asked) == len(set(asked)) == 4
    assert replied == asked


def writes_of_a_healthy_run() -> int:
    count = CrashAt()
    run_virtual(play(MemoryJournal(before_append=count)), 30_000)
    return count.calls


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_crash_at_any_single_write_loses_and_repeats_nothing(side: str) -> None:
    writes = writes_of_a_healthy_run()
    assert writes > 10
    restarts = [run_virtual(play(journal(side, CrashAt(at))), 30_000).restarts for at in range(1, writes + 1)]
    assert sum(restarts) > writes - 4, "each write is reached, but for some at the end: what shares a write depends on ids"


@pytest.mark.parametrize("seconds", [0.0, 0.5, 50.0, 100.01])
def test_a_worker_that_dies_on_the_way_costs_nothing(seconds: float) -> None:
    run_virtual(play(MemoryJournal(), kill_worker_after=seconds), 30_000)


@asynccontextmanager
async def open_till(world: World) -> AsyncIterator[tuple[Client, RunHandle]]:
    """Two items, into each of which somebody has paid."""
    keeper = asyncio.create_task(world.keep_node_alive())
    worker = till_worker()
    running = asyncio.create_task(worker.run(await world.connection()))
    client = await world.client()
    handle = await client.submit(TILL, [1, 2])
    for item in (0, 1):
        assert await handle.update("pay", 1, item=item, timeout=100)
    try:
        yield client, handle
    finally:
        worker.stop()
        await asyncio.gather(running, return_exceptions=True)
        await world.close(keeper)


def test_a_query_journals_nothing_and_is_answered_while_the_function_rests() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        async with open_till(world) as (_, handle):
            await asyncio.sleep(5)
            assert world.node is not None
            before = [service.shard.sequence for service in world.node.partitions.values()]
            for _ in range(3):
                assert await handle.query("state", item=1) == {"paid": 1, "of": 0}
            assert [service.shard.sequence for service in world.node.partitions.values()] == before

    run_virtual(played(), 30_000)


class Weighing(MemoryBroker):
    """Notes how large questions to functions are."""

    heaviest = 0
    pages = 0

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        if subject not in (subjects.queries(Namespace("default"), Pool("py")), subjects.control(Namespace("default"), Partition(0))):
            return await super().request(subject, data, timeout_s)
        if subject == subjects.queries(Namespace("default"), Pool("py")):
            Weighing.heaviest = max(Weighing.heaviest, len(data))
        elif isinstance(decode_control(data), ReadHistory):
            Weighing.pages += 1
        return await super().request(subject, data, timeout_s)


def test_a_history_that_does_not_fit_into_a_message_is_read_page_by_page() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        world.wrap = lambda _: Weighing(world.bus, "default")
        async with open_till(world) as (_, handle):
            await asyncio.sleep(5)
            assert await handle.query("state", item=0) == {"paid": 1, "of": 0}
            world.bus.max_message_bytes = Weighing.heaviest
            assert await handle.query("state", item=0) == {"paid": 1, "of": 0}
            assert (Weighing.heaviest, Weighing.pages) == (world.bus.max_message_bytes, 0)
            world.bus.max_message_bytes = Weighing.heaviest - 1
            assert await handle.query("state", item=0) == {"paid": 1, "of": 0}
            assert Weighing.pages > 1
            world.bus.max_message_bytes = Weighing.heaviest
            with pytest.raises(RequestRefused, match="does not fit into a message") as refusal:
                await handle.query("state", {"of": 3, "pad": "x" * (Weighing.heaviest - 200)}, item=0)
            assert refusal.value.code == "SM-5286"
            world.bus.max_message_bytes = 10**6

    run_virtual(played(), 30_000)


def test_a_question_that_is_over_has_no_history_any_more() -> None:
    questions = Questions()
    records: list[Record] = [Began(1), *(Settled(f"r/{n}", n, b"1" * 100) for n in range(9))]
    with questions.open(records) as name:
        pages = [questions.page(ReadHistory(name, 0), 10_000), questions.page(ReadHistory(name, 3), 800)]
        assert pages[0] == HistoryPage(records, more=False)
        assert pages[1] == HistoryPage(records[3:5], more=True)
        assert questions.page(ReadHistory(name, 9), 1) == HistoryPage(records[9:], more=False), "one record at least"
        assert questions.page(ReadHistory(name, 3, 800), 10_000) == pages[1], "the way to the worker may carry less"
        assert isinstance(questions.page(ReadHistory(name, 11), 1), Refused)
    refused = questions.page(ReadHistory(name, 0), 400)
    assert isinstance(refused, Refused)
    assert refused.code == "SM-1083"


def test_a_function_that_has_ended_is_asked_how_it_stood() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        async with open_till(world) as (_, handle):
            await handle.update("close", item=1)
            assert await handle.query("state", item=1) == {"paid": 1, "of": 0}, "of a run that goes on"
            await handle.update("pay", 3, item=0, timeout=100)
            await handle.update("close", item=0)
            await handle.wait(100)
            assert await handle.query("state", {"of": 2}, item=0) == {"paid": 2, "of": 2}
            assert await handle.query("state", item=1, step="till") == {"paid": 1, "of": 0}
            world.bus.max_message_bytes = 700
            assert await handle.query("state", item=0) == {"paid": 2, "of": 0}
            world.bus.max_message_bytes = 10**6
            for code, item, step in (("SM-5282", None, None), ("SM-5281", 2, None), ("SM-5281", 0, "other")):
                with pytest.raises(RequestRefused) as refusal:
                    await handle.query("state", item=item, step=step)
                assert refusal.value.code == code
            assert world.node is not None
            await world.node.partitions[Partition(0)].shard.snapshot()
            await world.journal.trim(Partition(0), 3)
            with pytest.raises(RequestRefused) as refusal:
                await handle.query("state", item=0)
            assert refusal.value.code == "SM-1082"

    run_virtual(played(), 30_000)


def test_without_a_worker_nobody_answers_a_query() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        keeper = asyncio.create_task(world.keep_node_alive())
        worker = till_worker()
        running = asyncio.create_task(worker.run(await world.connection()))
        handle = await (await world.client()).submit(TILL, [1])
        await handle.update("pay", 1, timeout=100)
        worker.stop()
        await running
        with pytest.raises(RequestRefused, match="no worker of pool py answered") as refusal:
            await handle.query("state")
        assert refusal.value.code == "SM-5287"
        await world.close(keeper)

    run_virtual(played(), 30_000)


def test_a_query_whose_worker_went_away_behind_its_gateway_is_asked_again() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        keeper = asyncio.create_task(world.keep_node_alive())
        worker = till_worker()
        running = asyncio.create_task(worker.run(await world.connection()))
        handle = await (await world.client()).submit(TILL, [1])
        await handle.update("pay", 1, timeout=100)
        worker.stop()
        await running
        answers = [Refused("SM-5133", "it has gone"), Refused("SM-5133", "it has gone"), QueryAnswer(b"42")]

        async def gateway(data: bytes) -> bytes:
            return encode(answers.pop(0))

        subject = subjects.queries(Namespace("default"), Pool("py"))
        serving = await (await world.connection()).serve(subject, gateway)
        assert await handle.query("state") == 42
        answers += [Refused("SM-5133", "it has gone")] * 100
        with pytest.raises(RequestRefused, match="no worker of pool py answered") as refusal:
            await handle.query("state")
        assert refusal.value.code == "SM-5287"
        await serving.close()
        await world.close(keeper)

    run_virtual(played(), 30_000)


def refused(asking: Any) -> tuple[str, str]:
    """Of what is asked of a world with a run of the till, and one of a plain flow."""

    async def played() -> tuple[str, str]:
        async with open_till(World(MemoryJournal())) as (client, handle):
            plain = await client.submit(NAP, [None])
            try:
                await asking(client, handle, plain)
            except (RequestRefused, UpdateFailed, WaitTimeout) as problem:
                return problem.code, str(problem)
            raise AssertionError("it was not refused")

    return run_virtual(played(), 30_000)


async def _over(client: Client, handle: RunHandle, plain: RunHandle) -> None:
    for item in (0, 1):
        await handle.update("close", item=item)
    await handle.wait(100)
    await handle.update("pay", 1)


REFUSALS = {
    "SM-5003": lambda client, handle, plain: client.handle("01900000-0000-7000-8000-000000000001").update("pay", 1),
    "SM-5280": _over,
    "SM-5281": lambda client, handle, plain: plain.update("pay", 1),
    "SM-5282": lambda client, handle, plain: handle.update("pay", 1),
    "SM-5284": lambda client, handle, plain: handle.ask_update("pay", b"{", item=0),
    "SM-5285": lambda client, handle, plain: handle.update("p" * 201, 1, item=0),
    "SM-1071": lambda client, handle, plain: handle.query("sleepy", item=0),
    "SM-1072": lambda client, handle, plain: handle.query("status", item=0),
    "SM-1078": lambda client, handle, plain: handle.query("mean", item=1),
    "SM-1076": lambda client, handle, plain: handle.update("p" * 200, 1, item=0),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_what_cannot_be_asked_is_refused(code: str) -> None:
    told, message = refused(REFUSALS[code])
    assert told == code, message
    if code == "SM-5282":
        assert "item 0 step till, item 1 step till" in message
    if code == "SM-1076":
        assert "the workflow has no update" in message


def test_a_function_older_than_what_the_journal_holds_is_changed_and_followed() -> None:
    async def played() -> None:
        world = World(MemoryJournal())
        async with open_till(world) as (client, handle):
            seen = [value.cursor async for value in handle.stream("sums", follow=False)]
            assert world.node is not None
            shard = world.node.partitions[Partition(0)].shard
            await shard.snapshot()
            await world.journal.trim(Partition(0), int(seen[-1].partition(".")[0]) // PER_FRAME - 1)
            assert await handle.update("pay", 5, item=0, timeout=100) == 13
            assert await handle.update("pay", 6, item=0, timeout=100) == 25
            await handle.update("close", item=0)
            await handle.update("close", item=1)
            later = [(value.value, value.item) async for value in client.handle(handle.id).stream("sums", seen[-1])]
            assert later == [(10, 0), (3, 0), (12, 0), (4, 0)], "to the run's end, without one missed or told twice"

    run_virtual(played(), 30_000)
