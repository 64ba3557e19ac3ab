"""The sticky cache: what it keeps and gives out; and bodies at random, whose histories it changes in nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

import pytest
from tests.simulation.virtual_loop import run_virtual
from tests.unit.durable import test_random_bodies
from tests.unit.durable.bodies import BEGAN_MS, RUN, Body, due, settle
from tests.unit.durable.test_random_bodies import LEAVES, body_of

from stepmesh.context import current_context, enter
from stepmesh.durable import attempts, wf
from stepmesh.durable.activation import Activation
from stepmesh.durable.driver import LetGo, drive
from stepmesh.durable.errors import RetryAfter
from stepmesh.durable.execution import Execution, executing
from stepmesh.durable.limits import STRICT
from stepmesh.durable.live_bodies import LiveBodies, LiveBody
from stepmesh.errors import NoContext
from stepmesh.worker import Worker
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import NOTES, CancelAsked, Issued, Kind, Record, Settled, Tried, encode_records
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Task

SEEDS = 300
Outcome = tuple[list[Record], str]


class Shard:
    """A history in memory, and what the rest of the world does with what stands in it, at random."""

    def __init__(self, seed: int, *, short: bool = False) -> None:
        self.short = short  # histories travel whole
        self.history: list[Record] = []
        self.driver = self.seen = 0
        self.activations = 1
        self.now_ms = BEGAN_MS
        self.asked_from: list[int] = []
        self._open: dict[str, Issued] = {}
        self._tried: dict[str, int] = {}
        self._random = Random(seed)
        self._cancel_at = self._random.randrange(6) if seed % 2 else None

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        if not turn.number:
            self.asked_from.append(turn.base)
            return FunctionTurned(at_ms=self.now_ms, records=self.history[turn.base :])
        assert turn.base == len(self.history)
        self.driver = turn.driver
        for record in turn.records:
            self._append(record)
        for id in turn.abandoned:
            self._open.pop(id, None)
            self._tried.pop(id, None)
        results = any(isinstance(record, Settled | Tried) for record in turn.records)
        left = turn.idle and not results
        self.seen = len(self.history) if left else self.seen
        return FunctionTurned(at_ms=self.now_ms, left=left)

    def _append(self, record: Record) -> None:
        if isinstance(record, Issued) and record.kind not in NOTES:
            self._open[record.id] = record
        elif isinstance(record, Settled):
            self._open.pop(record.id)
            self._tried.pop(record.id, None)
            record = Settled(record.id, self.now_ms, record.value, record.failure, record.attempt)
        elif isinstance(record, Tried):
            delay = record.due_ms - record.at_ms
            record = Tried(record.id, self.now_ms, record.attempt, record.failure, self.now_ms + delay)
            self._tried[record.id] = record.due_ms
        self.history.append(record)

    def complete(self) -> None:
        """The activation is over, and one thing happens that begins another."""
        self.activations += 1
        if self._cancel_at == self.activations:
            self.history.append(CancelAsked(self.now_ms, "by chance"))
            return
        timers = sorted((one for one in self._open.values() if one.kind is Kind.TIMER), key=due)[:1]
        chosen = self._random.choice([*timers, *(one for one in self._open.values() if one.kind is not Kind.TIMER)])
        if chosen.kind is Kind.TIMER:
            self.now_ms = max(self.now_ms + 1, due(chosen))
            self._append(Settled(chosen.id, self.now_ms))
        elif chosen.kind is Kind.STEP:
            self.now_ms = max(self.now_ms, self._tried[chosen.id])
        else:
            self._append(Settled(chosen.id, self.now_ms, chosen.arguments))


async def activated(body: Body, shard: Shard, bodies: LiveBodies, *, fresh: bool = False) -> Any:
    """One activation, as hosting.py has it."""
    began_ms = shard.history[0].at_ms if shard.history else shard.now_ms
    task = Task(
        RunId(RUN), 0, 0, shard.activations, 1, "f", "/f", b"null", at_ms=shard.now_ms, records=len(shard.history), driver=shard.driver,
        seen=shard.seen, history=encode_records(shard.history) if shard.short else b"",
        news=b"" if shard.short else encode_records(shard.history[shard.seen :]),
    )  # fmt: skip

    def begin(started_ms: int, *, recorded: str) -> Execution:
        assert started_ms == began_ms
        return Execution(body, started_ms, RUN, limits=STRICT)

    def keep(live: LiveBody) -> None:
        bodies.keep(RUN, live)

    live = bodies.take(RUN, shard.driver, len(shard.history))
    kept = keep if bodies.wanted else None
    return await drive(Activation(task, begin, shard, asyncio.Event(), "1", fresh, live=live, keep=kept))


async def played(
    body: Body, shard: Shard, bodies: LiveBodies, between: Callable[[], None] = lambda: None, *, fresh: bool = False
) -> Outcome:
    """To the end. `between`: after each activation that idles. `fresh`: tasks come at once, and once."""
    for _ in range(500):
        try:
            return shard.history, repr(await activated(body, shard, bodies, fresh=fresh))
        except LetGo:
            between()
            shard.complete()
        except asyncio.CancelledError:
            return shard.history, "cancelled"
        except Exception as problem:
            return shard.history, repr(problem)
    raise AssertionError("not over after 500 activations")


class Inline(Executor):
    """Threads would bring chance into it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as problem:
            future.set_exception(problem)
        return future


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_threads", Inline)


def test_histories_are_the_same_with_it_without_it_and_with_evictions_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_random_bodies, "LEAVES", (*LEAVES, "sleep", "sleep", "sleep"))
    resumed = evicted = 0
    for seed in range(SEEDS):
        body = body_of(seed)
        without = run_virtual(played(body, Shard(seed), LiveBodies(0)))
        bodies = LiveBodies()
        assert run_virtual(played(body, Shard(seed), bodies, fresh=seed % 3 > 0)) == without, seed
        assert not len(bodies), "a body that is over is not kept"
        resumed += bodies.resumed
        some, chance = LiveBodies(), Random(seed)

        def evict(some: LiveBodies = some, chance: Random = chance) -> None:
            if chance.random() < 0.5:
                some.evict(RUN)

        assert run_virtual(played(body, Shard(seed), some, evict, fresh=seed % 3 > 0)) == without, seed
        evicted += bodies.resumed - some.resumed
    assert resumed > SEEDS
    assert evicted > SEEDS // 4


async def naps(count: int) -> int:
    for n in range(count):
        await wf.run("add", lambda n: n + 1, n)
        await asyncio.sleep(60)
    return count


def test_a_body_that_is_alive_gets_only_what_is_new() -> None:
    shard, bodies = Shard(0), LiveBodies()
    assert run_virtual(played(lambda: naps(3), shard, bodies))[1] == "3"
    assert bodies.resumed == 3
    assert shard.asked_from == [0, 5, 9, 13]


def test_news_that_come_along_with_a_task_are_not_asked_for() -> None:
    shard, bodies = Shard(0), LiveBodies()
    assert run_virtual(played(lambda: naps(3), shard, bodies, fresh=True))[1] == "3"
    assert not shard.asked_from
    evicted = Shard(0)
    assert run_virtual(played(lambda: naps(3), evicted, bodies, lambda: bodies.evict(RUN), fresh=True))[1] == "3"
    assert evicted.history == shard.history
    assert evicted.asked_from == [0, 0, 0]


def test_a_history_that_travels_whole_is_not_asked_for() -> None:
    bodies = LiveBodies()
    live, evicted = Shard(0, short=True), Shard(0, short=True)
    assert run_virtual(played(lambda: naps(3), live, bodies, fresh=True))[1] == "3"
    assert bodies.resumed == 3
    assert run_virtual(played(lambda: naps(3), evicted, bodies, lambda: bodies.evict(RUN), fresh=True))[1] == "3"
    assert (live.asked_from, evicted.asked_from) == ([], [])
    assert live.history == evicted.history


def test_news_from_another_place_than_the_body_has_are_asked_for() -> None:
    shard, bodies = Shard(0), LiveBodies()

    def let_go_earlier() -> None:
        shard.seen -= 1

    assert run_virtual(played(lambda: naps(2), shard, bodies, let_go_earlier, fresh=True))[1] == "2"
    assert shard.asked_from == [4, 8]


def test_a_body_whose_history_went_on_elsewhere_is_replayed() -> None:
    shard, bodies = Shard(0), LiveBodies()

    async def main() -> Any:
        with pytest.raises(LetGo):
            await activated(lambda: naps(2), shard, bodies)
        assert len(bodies) == 1
        shard.complete()
        shard.driver += 1
        return await played(lambda: naps(2), shard, bodies)

    assert run_virtual(main())[1] == "2"
    assert bodies.resumed == 1
    assert shard.asked_from == [0, 0, 9]


def test_a_step_that_is_tried_again_later_is_done_by_the_body_that_waited() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(len(tries))
        if len(tries) < 3:
            raise RetryAfter("1h")
        return "steady"

    async def body() -> Any:
        return await wf.run("flaky", flaky)

    bodies = LiveBodies()
    assert run_virtual(played(body, Shard(0), bodies))[1] == "'steady'"
    assert (len(tries), bodies.resumed) == (3, 2)


def test_a_body_holds_nothing_of_the_attempt_that_it_began_in() -> None:
    async def body() -> str:
        with pytest.raises(NoContext):
            current_context()
        await executing.get().issue(Kind.PROMISE, "decision", b"null", settle)
        with pytest.raises(NoContext):
            current_context()
        return "clean"

    async def main() -> Any:
        enter(object())  # type: ignore[arg-type]  # a context of whatever attempt
        found = await played(body, Shard(0), LiveBodies())
        assert current_context() is not None
        return found[1]

    assert run_virtual(main()) == "'clean'"


# --- what it keeps ------------------------------------------------------------------------------------------------


class Dropped:
    """Instead of a body."""

    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def live(size: int = 10, driver: int = 7) -> LiveBody:
    return LiveBody(Dropped(), 4, driver, size)  # type: ignore[arg-type]


def alive(*bodies: LiveBody) -> list[bool]:
    return [not body.execution.dropped for body in bodies]  # type: ignore[attr-defined]


def test_the_ones_that_wait_longest_go_first_when_there_are_too_many() -> None:
    bodies, made = LiveBodies(most=2), [live() for _ in range(3)]
    bodies.keep("a", made[0])
    bodies.keep("b", made[1])
    assert alive(*made) == [True, True, True]
    bodies.keep("c", made[2])
    assert alive(*made) == [False, True, True]
    assert bodies.take("a", 7, 4) is None
    assert bodies.take("b", 7, 4) is made[1]
    bodies.keep("b", made[1])
    bodies.keep("d", live())
    assert alive(made[1], made[2]) == [True, False]


def test_and_when_their_histories_are_too_large() -> None:
    bodies, made = LiveBodies(most_bytes=100), [live(size) for size in (60, 40, 1, 101)]
    bodies.keep("a", made[0])
    bodies.keep("b", made[1])
    assert alive(*made) == [True, True, True, True]
    bodies.keep("c", made[2])
    assert alive(*made) == [False, True, True, True]
    bodies.keep("d", made[3])
    assert alive(*made) == [False, False, False, False]
    assert len(bodies) == 0


def test_a_body_is_given_out_once_and_only_to_who_goes_on_from_it() -> None:
    bodies = LiveBodies()
    for driver, records, fits in [(7, 4, True), (7, 9, True), (7, 3, False), (8, 4, False), (0, 4, False)]:
        body = live()
        bodies.keep("a", body)
        assert (bodies.take("a", driver, records) is body) is fits
        assert alive(body) == [fits]
        assert bodies.take("a", driver, records) is None


def test_one_that_is_closed_keeps_none() -> None:
    bodies, (first, second) = LiveBodies(), (live(), live())
    bodies.keep("a", first)
    bodies.close()
    bodies.keep("b", second)
    assert alive(first, second) == [False, False]
    assert not bodies.wanted


def test_how_many_a_worker_keeps_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worker("p").live_functions == 1_000
    monkeypatch.setenv("STEPMESH_LIVE_FUNCTIONS", "0")
    assert Worker("p").live_functions == 0
    assert Worker("p", live_functions=5).live_functions == 5
    monkeypatch.setenv("STEPMESH_LIVE_FUNCTIONS", "many")
    for make in (lambda: Worker("p"), lambda: Worker("p", live_functions=-1)):
        with pytest.raises(StepmeshError, match="is no number") as found:
            make()
        assert found.value.code == "SM-1024"
