"""The driver of one activation: how it tells what it has to tell, whatever the shard answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.simulation.virtual_loop import run_virtual
from tests.unit.durable.bodies import BEGAN_MS, RUN, Body, settle, step

from stepmesh.durable import wf
from stepmesh.durable.activation import TURN_BYTES, Activation, Begin
from stepmesh.durable.app import App
from stepmesh.durable.driver import LOCAL_STEPS, LOOK_S, HandedBack, LetGo, drive
from stepmesh.durable.errors import RetryAfter, StepFailed
from stepmesh.durable.execution import Execution, executing
from stepmesh.durable.testing import env
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Record, Settled, Tried, encode_records
from stepmesh_broker.protocol.ids import RunId, WorkerId
from stepmesh_broker.protocol.messages import Task

NATS_BYTES = 1 << 20
"""Largest message of a NATS server as it comes."""


class Shard:
    """A history in memory. `meanwhile`: appended before a turn is looked at, once."""

    def __init__(self, *history: Record, meanwhile: tuple[Record, ...] = ()) -> None:
        self.history = list(history)
        self.meanwhile = meanwhile
        self.turns: list[FunctionTurn] = []
        self.takes_back = True

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        if turn.number:
            self.turns.append(turn)
            self.history += self.meanwhile
            self.meanwhile = ()
        own = turn.base == len(self.history)
        self.history += turn.records
        news = self.history[turn.base :]
        left = (turn.idle and own) or (turn.leaving and self.takes_back)
        return FunctionTurned(at_ms=BEGAN_MS, records=None if own and turn.number else news, left=left)


async def driven(body: Body, shard: Shard, leaving: asyncio.Event | None = None, news: asyncio.Event | None = None) -> Any:
    def begin(started_ms: int, *, recorded: str) -> Execution:
        return Execution(body, started_ms, RUN)

    return await driven_by(begin, shard, leaving, news)


async def driven_by(begin: Begin, shard: Shard, leaving: asyncio.Event | None = None, news: asyncio.Event | None = None) -> Any:
    task = Task(RunId(RUN), 0, 0, 2, 1, "f", "/f", b"null", at_ms=BEGAN_MS, history=encode_records(shard.history))
    heard, left = news or asyncio.Event(), leaving or asyncio.Event()
    return await asyncio.wait_for(drive(Activation(task, begin, shard, heard, "1", leaving=left)), 30)


def played(run: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await run()

    return asyncio.run(main())


def test_what_is_asked_for_at_once_goes_in_turns_that_a_broker_takes() -> None:
    async def wide() -> None:
        await asyncio.gather(*(call(f"charge-{n}") for n in range(8_000)))

    async def call(name: str) -> None:
        where = "services/orders/workflows/settlement.py:1207"
        await executing.get().issue(Kind.CALL, name, b"{}", settle, where=where, options=msgspec.json.encode({"timeout_ms": 30_000}))

    shard = Shard()
    with pytest.raises(LetGo):
        played(lambda: driven(wide, shard))
    assert len(shard.history) == 8_001
    sizes = [len(codec.encode(FunctionTurns(WorkerId("w"), [turn]))) for turn in shard.turns]
    assert max(sizes) < NATS_BYTES // 2
    assert [turn.idle for turn in shard.turns][-1]


async def gives_up(count: int, name: str) -> None:
    """Asks for so many things, gives them up at once, and waits for one more."""
    asked = [executing.get().issue(Kind.CALL, name, b"{}", settle) for _ in range(count)]
    for one in asked:
        one.cancel()
    await executing.get().issue(Kind.PROMISE, "decision", b"null", settle)


def test_what_is_given_up_is_told_in_turns_that_a_broker_takes_and_never_before_it_was_asked_for() -> None:
    count, shard = 8_000, Shard()
    with pytest.raises(LetGo):
        played(lambda: driven(partial(gives_up, count, "/warehouses/reservations/of-one-order/reserve"), shard))
    asked, told = set[str](), list[str]()
    for turn in shard.turns:
        asked |= {record.id for record in turn.records if isinstance(record, Issued)}
        told += turn.abandoned
        assert asked.issuperset(turn.abandoned)
        assert len(codec.encode(FunctionTurns(WorkerId("w"), [turn]))) < NATS_BYTES // 2
    assert len(told) == len(set(told)) == count
    assert [turn.idle for turn in shard.turns][-1]

    again = Shard(*shard.history)
    with pytest.raises(LetGo):
        played(lambda: driven(partial(gives_up, count, "/warehouses/reservations/of-one-order/reserve"), again))
    assert {id for turn in again.turns for id in turn.abandoned} == set(told), "another worker tells it anew"
    assert max(len(codec.encode(FunctionTurns(WorkerId("w"), [turn]))) for turn in again.turns) < NATS_BYTES // 2


def test_a_name_that_is_no_unicode_is_told_all_the_same() -> None:
    async def body() -> int:
        wf.set("caf\udce9", 1)
        return await wf.run("read caf\udce9.txt", lambda: 7)

    shard = Shard()
    assert played(lambda: driven(body, shard)) == 7
    assert [len(codec.encode(FunctionTurns(WorkerId("w"), [turn]))) > 0 for turn in shard.turns]
    names = [record.name for record in shard.history if isinstance(record, Issued)]
    assert names == ["caf\\udce9", "read caf\\udce9.txt"]
    assert played(lambda: driven(body, Shard(*shard.history))) == 7


@pytest.mark.parametrize("size", [TURN_BYTES // 2, 2 * TURN_BYTES])
def test_a_step_whose_result_takes_a_turn_of_its_own_is_done_once(size: int) -> None:
    app, done = App("large"), list[int]()

    @app.step
    async def block(number: int) -> str:
        done.append(number)
        return "x" * size

    @app.workflow
    async def blocks(count: int) -> int:
        return sum([len(await block(number)) for number in range(count)])

    shard = Shard()
    assert played(lambda: driven_by(partial(blocks.begin, RUN, b"3"), shard)) == 3 * size
    assert done == [0, 1, 2]


def test_code_that_cannot_go_on_is_told_until_the_shard_lets_go() -> None:
    async def other() -> None:
        await step("another")

    began, asked = Began(BEGAN_MS, "1"), Issued("r/one", Kind.CALL, "one", "", b"null", "")
    shard = Shard(began, asked, meanwhile=(Settled("r/one", BEGAN_MS),))
    with pytest.raises(LetGo):
        played(lambda: driven(other, shard))
    assert [(bool(turn.blocked), turn.base) for turn in shard.turns] == [(True, 2), (True, 3)]


@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_body_hears_what_it_was_asked_before_its_first_word(meanwhile: bool) -> None:
    async def patient() -> str:
        try:
            await executing.get().issue(Kind.PROMISE, "decision", b"null", settle)
        except asyncio.CancelledError:
            return "told"
        return "not told"

    asked = CancelAsked(BEGAN_MS, "enough")
    shard = Shard(meanwhile=(asked,)) if meanwhile else Shard(asked)
    assert played(lambda: driven(patient, shard)) == "told"
    assert [type(record) for record in shard.history[:2]] == [CancelAsked, Began]
    again = Shard(*shard.history)
    assert played(lambda: driven(patient, again)) == "told"
    assert again.history == shard.history


async def cancels_and_waits() -> None:
    cancel_this()
    await asyncio.sleep(60)


async def cancels_and_returns() -> str:
    cancel_this()
    return "lost"


async def cancels_and_raises() -> None:
    cancel_this()
    raise ValueError("lost")


def cancel_this() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


SELFISH = [cancels_and_waits, cancels_and_returns, cancels_and_raises]


@pytest.mark.parametrize("selfish", SELFISH)
def test_a_step_that_cancels_the_task_it_runs_in_has_failed_and_nothing_else_ends(selfish: Callable[[], Awaitable[Any]]) -> None:
    async def body() -> list[str]:
        with pytest.raises(StepFailed, match="cancelled itself"):
            await wf.run("selfish", selfish)
        return [await wf.run("next", lambda: "goes on")]

    shard = Shard()
    assert played(lambda: driven(body, shard)) == ["goes on"]
    (failed, *_) = [record for record in shard.history if isinstance(record, Settled)]
    assert failed.failure is not None


async def selfish_each() -> list[str]:
    failed: list[str] = []
    for selfish in SELFISH:
        try:
            await wf.run("selfish", selfish)
        except StepFailed as problem:
            failed.append(str(problem))
    return failed


async def test_so_it_does_in_a_test() -> None:
    async with env(Workflow(selfish_each, "/py/selfish")) as t:
        run = await t.start(Workflow(selfish_each, "/py/selfish"))
        assert len(await run.result()) == 3


async def test_who_cancels_a_driver_cancels_its_steps() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def body() -> None:
        await wf.run("endless", endless)

    shard = Shard()
    task = asyncio.create_task(driven(body, shard))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
    assert not [record for record in shard.history if isinstance(record, Settled)]


def test_an_activation_that_is_stopped_while_it_waits_leaves_nothing_behind() -> None:
    app, begun = App("slow"), asyncio.Event()

    @app.step
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def slow(_: None) -> None:
        await endless()

    async def stopped() -> set[asyncio.Task[Any]]:
        driving = asyncio.create_task(driven_by(partial(slow.begin, RUN, b"null"), Shard()))
        await begun.wait()
        driving.cancel()
        await asyncio.wait([driving])
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert played(stopped) == set()


async def test_no_step_begins_when_the_body_has_ended() -> None:
    begun, places = list[str](), asyncio.Semaphore(1)

    class Far(Shard):
        async def take(self, turn: FunctionTurn) -> FunctionTurned:
            await asyncio.sleep(0.01)
            return await super().take(turn)

    async def charge(name: str) -> None:
        begun.append(name)
        raise ValueError(name)

    async def limited(name: str) -> None:
        async with places:
            await wf.run("charge", charge, name)

    async def body() -> None:
        await asyncio.gather(limited("first"), limited("second"))

    shard = Far()
    with pytest.raises(StepFailed):
        await driven(body, shard)
    assert begun == ["first"], "the second one would be ended before it is recorded"


async def race(hangs: Callable[[], Awaitable[None]]) -> str:
    """A call that may take a minute, beside a step that does not end before it."""
    step = asyncio.create_task(wf.run("hangs", hangs))
    try:
        async with asyncio.timeout(60):
            await executing.get().issue(Kind.CALL, "/other/slow", b"{}", settle)
        return "in time"
    except TimeoutError:
        await step
        return "late"


def test_what_is_given_up_is_told_while_a_step_goes_on() -> None:
    shard, news = Shard(), asyncio.Event()

    async def hangs() -> None:
        await asyncio.sleep(1)
        shard.history.append(Settled("r/timer", BEGAN_MS + 60_000))
        news.set()
        while not any(turn.abandoned == ["r//other/slow"] for turn in shard.turns):
            await asyncio.sleep(1)

    assert run_virtual(driven(partial(race, hangs), shard, news=news)) == "late"


def test_news_that_nobody_told_of_are_heard_while_a_step_goes_on() -> None:
    shard = Shard()

    async def hangs() -> None:
        await asyncio.sleep(1)
        shard.history.append(Settled("r//other/slow", BEGAN_MS + 1, b'"done"'))
        await asyncio.sleep(10 * LOOK_S)

    assert run_virtual(driven(partial(race, hangs), shard)) == "in time"
    assert len(shard.turns) == 1, "asking is no turn: nothing is written for it"


@pytest.mark.parametrize("takes_back", [True, False])
async def test_a_worker_that_leaves_ends_the_steps_that_it_began_and_begins_no_more(takes_back: bool) -> None:
    leaving, gate, began = asyncio.Event(), asyncio.Event(), list[int]()

    async def waits(n: int) -> int:
        began.append(n)
        await gate.wait()
        return n

    async def body() -> list[int]:
        return await asyncio.gather(*(wf.run("waits", waits, n) for n in range(LOCAL_STEPS + 36)))

    shard = Shard()
    shard.takes_back = takes_back
    task = asyncio.create_task(driven(body, shard, leaving))
    while len(began) < LOCAL_STEPS:
        await asyncio.sleep(0)
    leaving.set()
    gate.set()
    with pytest.raises(LetGo if takes_back else HandedBack):
        await task
    assert len(began) == LOCAL_STEPS
    assert sorted(int(one.value) for one in shard.history if isinstance(one, Settled)) == began
    assert [turn.leaving for turn in shard.turns] == [False] * (len(shard.turns) - 1) + [True]
    assert not any(turn.idle for turn in shard.turns)
    assert len(await driven(body, Shard(*shard.history))) == LOCAL_STEPS + 36
    assert len(began) == LOCAL_STEPS + 36


@pytest.mark.parametrize("delay", ["1s", "1h"])
async def test_a_worker_that_leaves_waits_for_no_other_attempt(delay: str) -> None:
    leaving, tries = asyncio.Event(), list[int]()

    def fails() -> None:
        tries.append(1)
        raise RetryAfter(delay)

    async def body() -> None:
        await wf.run("fails", fails)

    shard = Shard()
    task = asyncio.create_task(driven(body, shard, leaving))
    while not any(isinstance(one, Tried) for one in shard.history):
        await asyncio.sleep(0.001)
    leaving.set()
    with pytest.raises(LetGo):
        await task
    assert len(tries) == 1
    assert shard.turns[-1].leaving is (delay == "1s")


async def test_a_body_that_asks_for_nothing_more_ends_in_the_worker_that_leaves() -> None:
    leaving = asyncio.Event()

    async def body() -> str:
        return await wf.run("leave", lambda: leaving.set() or "done")

    assert await driven(body, Shard(), leaving) == "done"
