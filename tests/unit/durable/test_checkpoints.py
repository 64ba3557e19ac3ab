"""Bodies that go ahead of their histories: what idempotent steps gave is told some at a time, and does not count where something else came
first. Whatever happens, the history is one that a replay follows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.virtual_loop import run_virtual
from tests.unit.durable.bodies import BEGAN_MS, RUN
from tests.unit.durable.test_driver import Shard

from stepmesh.durable import wf
from stepmesh.durable.activation import TURN_BYTES, Activation
from stepmesh.durable.app import App
from stepmesh.durable.checkpoints import MOST_S, ahead_s
from stepmesh.durable.driver import HandedBack, LetGo, drive
from stepmesh.durable.errors import BadWorkflow, RetryAfter
from stepmesh.durable.retrying import Retry
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind, Record, Settled, encode_records
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Task

Main = Callable[..., Coroutine[Any, Any, Any]]
AHEAD = "batch:1s"


class Ordering(Shard):
    """As the shard orders: an exact turn counts right behind its base. `interruptions`: what comes before the turn of that number."""

    def __init__(self, *history: Record, interruptions: dict[int, Record] | None = None, cost_s: float = 0.01) -> None:
        super().__init__(*history)
        self.interruptions = interruptions or {}
        self.refused = 0
        self._cost_s = cost_s

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        await asyncio.sleep(self._cost_s)
        if turn.number:
            self.turns.append(turn)
            self.interrupt(len(self.turns))
        own = turn.base == len(self.history)
        counts = own or not turn.exact
        self.refused += not counts
        now = max([BEGAN_MS, *(record.at_ms for record in self.history)])
        self.history += [_as_it_counts(record, now, exact=turn.exact) for record in turn.records] if counts else []
        left = (turn.idle and own) or (turn.leaving and self.takes_back)
        return FunctionTurned(at_ms=now, records=None if own and turn.number else self.history[turn.base :], left=left)

    def interrupt(self, turn: int) -> None:
        """What comes before that turn, comes."""
        between = self.interruptions.pop(turn, None)
        if between is not None and self._is_open(between):
            self.history.append(between)

    def _is_open(self, record: Record) -> bool:
        """A result counts once, and of what was asked for."""
        if not isinstance(record, Settled):
            return True
        asked = [one for one in self.history if isinstance(one, Issued) and one.id == record.id]
        return bool(asked) and not any(isinstance(one, Settled) and one.id == record.id for one in self.history)

    def steps(self) -> list[str]:
        """Those with a result, in the order of the history."""
        return [record.id for record in self.history if isinstance(record, Settled)]


def _as_it_counts(record: Record, now: int, *, exact: bool) -> Record:
    return Settled(record.id, now, record.value, record.failure, record.attempt) if isinstance(record, Settled) and not exact else record


class Doing:
    """An app that notes what its steps really did, and what the history had by then."""

    def __init__(self) -> None:
        self.app = App("py")
        self.done: Counter[str] = Counter()
        self.shard = Ordering()
        self.known: dict[str, list[str]] = {}

        @self.app.step(idempotent=True)
        async def again(name: str) -> str:
            return self._did(name)

        @self.app.step
        async def once(name: str) -> str:
            return self._did(name)

        self.again, self.once = again, once

    def _did(self, name: str) -> str:
        self.done[name] += 1
        self.known[name] = self.shard.steps()
        return name

    def played(self, main: Main, *, checkpoint: str = AHEAD, shard: Ordering | None = None, leaving: asyncio.Event | None = None) -> Any:
        self.shard = shard or self.shard
        return run_virtual(driven(Workflow(main, "/py/main", checkpoint=checkpoint), self.shard, leaving), 1_000)


async def driven(workflow: Workflow[..., Any], shard: Ordering, leaving: asyncio.Event | None = None) -> Any:
    """Whenever the shard lets go, another activation goes on; not when it is to leave."""
    while True:
        task = Task(RunId(RUN), 0, 0, 2, 1, "f", "/f", b"null", at_ms=BEGAN_MS, history=encode_records(shard.history))
        begin, left = partial(workflow.begin, RUN, b"null"), leaving or asyncio.Event()
        given = Activation(task, begin, shard, asyncio.Event(), workflow.version, leaving=left, ahead_s=workflow.ahead_s)
        try:
            return await drive(given)
        except LetGo:
            if left.is_set() or not shard.interruptions:
                raise
            shard.interrupt(min(shard.interruptions))


def chain(step: Callable[[str], Coroutine[Any, Any, str]], count: int) -> Main:
    async def main() -> int:
        for number in range(count):
            await step(f"s{number}")
        return count

    return main


def test_results_of_idempotent_steps_are_told_some_at_a_time() -> None:
    it = Doing()
    assert it.played(chain(it.again, 200)) == 200
    assert [turn.exact for turn in it.shard.turns] == [True]
    assert it.shard.steps() == [f"r/again{'' if n == 1 else f'#{n}'}" for n in range(1, 201)]
    assert set(it.done.values()) == {1}

    replayed = Doing()
    assert replayed.played(chain(replayed.again, 200), shard=Ordering(*it.shard.history)) == 200
    assert not replayed.done, "all of it is in the history"


@pytest.mark.parametrize(("kind", "checkpoint"), [("once", AHEAD), ("again", "each")])
def test_each_other_result_is_told_before_the_body_has_it(kind: str, checkpoint: str) -> None:
    it = Doing()
    assert it.played(chain(getattr(it, kind), 20), checkpoint=checkpoint) == 20
    assert len(it.shard.turns) == 20
    assert not any(turn.exact for turn in it.shard.turns)
    assert [len(it.known[f"s{number}"]) for number in range(20)] == list(range(20))


def test_it_goes_ahead_for_so_long_only() -> None:
    it = Doing()

    @it.app.step(idempotent=True)
    async def slow(name: str) -> str:
        await asyncio.sleep(0.004)
        return name

    assert it.played(chain(slow, 100), checkpoint="batch:20ms") == 100
    assert 15 <= len(it.shard.turns) <= 20, "about five results each"


def test_a_step_that_takes_long_keeps_nothing_from_being_told() -> None:
    it = Doing()

    @it.app.step(idempotent=True)
    async def slow(name: str) -> str:
        before = len(it.shard.steps())
        await asyncio.sleep(0.5)
        return f"{before} {len(it.shard.steps())}"

    async def main() -> str:
        await it.again("a")
        return await slow("b")

    assert it.played(main) == "0 1"


def test_a_step_that_may_not_be_done_again_begins_when_all_before_it_is_known() -> None:
    it = Doing()

    async def main() -> None:
        for number in range(5):
            await it.again(f"a{number}")
        await it.once("b")
        await it.again("c")

    it.played(main)
    assert len(it.known["b"]) == 5
    assert it.done["b"] == 1


def test_nothing_goes_ahead_within_a_saga() -> None:
    it = Doing()

    async def main() -> None:
        await it.again("before")
        await it.again("before, too")
        async with wf.saga() as saga:
            await it.again("first")
            saga.undo(it.again, "undo")
            await it.again("second")
        await it.again("after")
        await it.again("after, too")

    it.played(main)
    assert len(it.known["first"]) == 2, "what came before is told first"
    assert len(it.known["second"]) == 3
    assert len(it.known["after"]) == 4
    assert len(it.known["after, too"]) == 4, "it goes ahead again"


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_what_was_done_ahead_does_not_count_when_the_run_was_cancelled_first(turn: int) -> None:
    it = Doing()

    async def main() -> None:
        for number in range(40):
            await it.again(f"s{number}")
            if number % 10 == 9:
                await it.once(f"o{number}")

    shard = Ordering(interruptions={turn: CancelAsked(BEGAN_MS, "enough")})
    with pytest.raises(asyncio.CancelledError):
        it.played(main, shard=shard)
    assert shard.refused == (turn != 2), "the second turn tells of a step that may not be done again: it counts"
    done = Counter(it.done)
    with pytest.raises(asyncio.CancelledError):
        it.played(main, shard=Ordering(*shard.history))
    assert it.done == done, "a replay does nothing"


def test_a_flood_of_events_stops_nothing() -> None:
    """Something comes before every turn; each second one counts."""
    it = Doing()

    async def main() -> list[int]:
        promises = [wf.promise(int) for _ in range(60)]
        await it.once("asked")
        for number in range(20):
            await it.again(f"s{number}")
        return [await promise for promise in promises]

    events: dict[int, Record] = {n + 2: Settled(f"r/int{'' if not n else f'#{n + 1}'}", BEGAN_MS, b"%d" % n) for n in range(60)}
    shard = Ordering(interruptions=events)
    assert it.played(main, shard=shard) == list(range(60))
    assert shard.refused >= 5
    assert it.done["asked"] == 1
    again = Doing()
    assert again.played(main, shard=Ordering(*shard.history)) == list(range(60))
    assert not again.done


def test_times_are_those_that_the_body_went_on_with() -> None:
    it = Doing()

    async def main() -> None:
        await it.again("a")
        await it.again("b")
        await asyncio.sleep(5)

    shard = Ordering()
    with pytest.raises(LetGo):
        it.played(main, shard=shard)
    (timer,) = [record for record in shard.history if isinstance(record, Issued) and record.kind is Kind.TIMER]
    with pytest.raises(LetGo):
        it.played(main, shard=Ordering(*shard.history))
    shard.history.append(Settled(timer.id, BEGAN_MS + 5_000))
    assert it.played(main, shard=Ordering(*shard.history)) is None, "its arguments are the same in a replay"


def test_a_failed_attempt_is_told_and_its_next_one_waits() -> None:
    it = Doing()

    @it.app.step(idempotent=True, retry=Retry(max=3))
    async def flaky() -> str:
        it.done["flaky"] += 1
        if it.done["flaky"] < 3:
            raise RetryAfter("1s")
        return "steady"

    async def main() -> list[str]:
        return [await it.again("a"), await flaky(), await it.again("b")]

    assert it.played(main) == ["a", "steady", "b"]
    assert it.done == {"a": 1, "b": 1, "flaky": 3}


def test_large_results_go_in_turns_of_their_own() -> None:
    it = Doing()

    @it.app.step(idempotent=True)
    async def block(number: int) -> str:
        return "x" * (TURN_BYTES // 3)

    async def main() -> int:
        return sum([len(await block(number)) for number in range(12)])

    assert it.played(main) == 12 * (TURN_BYTES // 3)
    sizes = [sum(len(one.value) for one in turn.records if isinstance(one, Settled)) for turn in it.shard.turns]
    assert max(sizes) <= TURN_BYTES
    assert len(it.shard.steps()) == 12


def test_a_body_that_begins_anew_or_fails_has_told_everything() -> None:
    it = Doing()

    async def anew() -> None:
        await it.again("a")
        await it.again("b")
        wf.continue_as_new(1)

    async def failing() -> None:
        await it.again("c")
        raise ValueError("no")

    shard = Ordering()
    shard.takes_back = False
    with pytest.raises((LetGo, TimeoutError)):
        run_virtual(asyncio.wait_for(_continued(it, anew, shard), 60), 1_000)
    assert next(turn.base for turn in shard.turns if turn.continued is not None) == len(shard.history)
    with pytest.raises(ValueError, match="no"):
        it.played(failing, shard=Ordering())
    assert it.shard.steps() == ["r/again"]


async def _continued(it: Doing, main: Main, shard: Ordering) -> None:
    class Ends(Exception):
        pass

    take = shard.take

    async def until_continued(turn: FunctionTurn) -> FunctionTurned:
        answer = await take(turn)
        return FunctionTurned(at_ms=answer.at_ms, left=True) if turn.continued is not None else answer

    shard.take = until_continued  # type: ignore[method-assign]
    it.shard = shard
    await driven(Workflow(main, "/py/main", checkpoint=AHEAD), shard)


def test_a_worker_that_leaves_has_told_what_it_did() -> None:
    it, leaving = Doing(), asyncio.Event()

    async def main() -> None:
        for number in range(10):
            if number == 5:
                wf.info()
            await it.again(f"s{number}")

    @it.app.step(idempotent=True)
    async def last() -> None:
        leaving.set()

    async def leaves() -> None:
        await it.again("a")
        await last()
        await it.again("not begun")

    with pytest.raises((LetGo, HandedBack)):
        it.played(leaves, leaving=leaving)
    assert it.shard.steps() == ["r/again", "r/last"]
    assert "not begun" not in it.done
    assert it.played(main, shard=Ordering()) is None


@pytest.mark.parametrize(("text", "seconds"), [("each", 0.0), ("batch:50ms", 0.05), (f"batch:{MOST_S:g}s", MOST_S)])
def test_how_far_ahead_is_said_in_words(text: str, seconds: float) -> None:
    assert ahead_s("w", text) == seconds


@pytest.mark.parametrize("text", ["", "batch", "batch:", "batch:0s", "batch:-1s", "50ms", f"batch:{MOST_S + 0.1:g}s", "batch:soon"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(BadWorkflow, match=r"checkpoint=.*of the workflow `w`"):
        ahead_s("w", text)


# --- any body ------------------------------------------------------------------------------------------------------

PART = st.lists(st.sampled_from(["again", "once", "note", "wait", "slow", "saga"]), max_size=6)
INTERRUPTED = st.dictionaries(st.integers(1, 30), st.integers(0, 5), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(PART, min_size=1, max_size=3), INTERRUPTED)
def test_whatever_comes_between_the_history_is_one_that_a_replay_follows(parts: list[list[str]], interrupted: dict[int, int]) -> None:
    it, events = Doing(), 6

    @it.app.step(idempotent=True)
    async def slow(name: str) -> str:
        await asyncio.sleep(0.3)
        return name

    async def main() -> Any:
        promises = [wf.promise(int) for _ in range(events)]
        ready: list[int] = []

        async def hear(promise: wf.Promise[int]) -> None:
            ready.append(await promise)

        hearing = [asyncio.create_task(hear(promise)) for promise in promises]

        async def part(number: int, kinds: list[str]) -> list[Any]:
            found: list[Any] = []
            for place, kind in enumerate(kinds):
                name = f"{number}.{place}.{len(ready)}"  # what it does depends on what it has heard of
                if kind == "note":
                    wf.set("ready", [*ready])
                elif kind == "wait":
                    await asyncio.sleep(0.05)
                elif kind == "saga":
                    async with wf.saga() as saga:
                        found.append(await it.again(name))
                        saga.undo(it.again, "undo")
                else:
                    found.append(await {"again": it.again, "once": it.once, "slow": slow}[kind](name))
            return found

        found = await asyncio.gather(*(part(number, kinds) for number, kinds in enumerate(parts)))
        await asyncio.gather(*hearing)
        return found, ready

    shard = Timed(
        interruptions={turn: Settled(_promise(which), BEGAN_MS, b"%d" % which) for turn, which in interrupted.items()}, cost_s=0.01
    )
    first = it.played(main, shard=shard)
    done = Counter(it.done)
    assert it.played(main, shard=Timed(*shard.history)) == first
    assert it.done == done, "a replay does nothing"
    assert max((count for name, count in done.items() if _kind(parts, name) == "once"), default=1) == 1
    ids = shard.steps()
    assert len(ids) == len(set(ids))


def _promise(which: int) -> str:
    return f"r/int{'' if not which else f'#{which + 1}'}"


def _kind(parts: list[list[str]], name: str) -> str:
    number, place, _ = name.split(".") if "." in name else ("0", "0", "")
    return parts[int(number)][int(place)] if parts[int(number)] else ""


class Timed(Ordering):
    """It settles what is open when nothing else comes: a timer when it is due, then promises."""

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        answer = await super().take(turn)
        if not answer.left:
            return answer
        over = {record.id for record in self.history if isinstance(record, Settled)}
        waiting = [one for one in self.history if isinstance(one, Issued) and one.kind in (Kind.TIMER, Kind.PROMISE) and one.id not in over]
        if waiting:
            timers = [one for one in waiting if one.kind is Kind.TIMER]
            due = (timers or waiting)[0]
            self.interruptions.setdefault(1_000 + len(self.turns), Settled(due.id, self.history[-1].at_ms + 50, b"0"))
        return answer
