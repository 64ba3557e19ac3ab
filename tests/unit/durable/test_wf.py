"""What a body may ask for, each in many orders of completion, replayed from the beginning every time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.durable.bodies import BEGAN_MS, Body, Journal

from stepmesh.durable import wf
from stepmesh.durable.durations import LONGEST_S, BadDuration, Duration, seconds
from stepmesh.durable.errors import OutsideRun, StepFailed
from stepmesh.durable.execution import Execution, State
from stepmesh.durable.guards import guarded
from stepmesh.durable.steps import Step
from stepmesh.durable.values import NotSerialisable
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind

SEEDS = 100
BEGAN = datetime.fromtimestamp(BEGAN_MS / 1000, UTC)


class Receipt(msgspec.Struct):
    id: str
    total: int


def step(function: Callable[..., Any]) -> Step[..., Any]:
    return Step(function)


@step
async def charge(order: str, total: int = 7) -> Receipt:
    return Receipt(order, total)


@step
def double(n: int) -> int:
    return 2 * n


@step
def refuses(n: int) -> int:
    raise ValueError(f"not {n}")


def ended(body: Body, seeds: int = SEEDS) -> list[Any]:
    """Its values over so many orders, each different one once."""
    values: list[Any] = []
    for seed in range(seeds):
        journal = Journal(seed)
        turn = journal.run(body)
        assert turn.state is State.DONE, turn.divergence or turn.error
        assert journal.replay(body).commands == []
        values += [turn.value] if turn.value not in values else []
    return values


def commands(journal: Journal) -> list[Issued]:
    return [record for record in journal.records if isinstance(record, Issued)]


def test_steps_keep_their_types_and_bind_their_arguments() -> None:
    async def body() -> Any:
        return [await charge("a"), await charge(total=7, order="a"), await double(4), await wf.run("inline", lambda n: n + 1, 5)]

    journal = Journal(1)
    assert journal.run(body).value == [Receipt("a", 7), Receipt("a", 7), 8, 6]
    first, second, *_ = commands(journal)
    assert (first.id, second.id, first.fingerprint) == ("r/charge", "r/charge#2", second.fingerprint)


def test_however_a_step_is_called_its_arguments_are_those_of_its_signature() -> None:
    def take(*args: Any, **kwargs: Any) -> list[Any]:
        return [*args, *kwargs.values()]

    @step
    def usual(a: int, b: int = 2) -> list[Any]:
        return take(a, b)

    @step
    def placed(a: int, /, b: int) -> list[Any]:
        return take(a, b)

    @step
    def any_number(*n: int) -> list[Any]:
        return take(*n)

    @step
    def named(*, n: int = 1) -> list[Any]:
        return take(n)

    @step
    def none() -> list[Any]:
        return take()

    async def body() -> Any:
        done = [await usual(1), await usual(1, 2), await usual(b=2, a=1), await placed(1, 2), await placed(1, b=2)]
        return [*done, await any_number(), await any_number(1, 2), await named(), await named(n=1), await none()]

    journal = Journal(1)
    assert journal.run(body).value == [[1, 2]] * 5 + [[], [1, 2], [1], [1], []]
    assert [one.arguments for one in commands(journal)] == [b'{"a":1,"b":2}'] * 5 + [b'{"n":[]}', b'{"n":[1,2]}', *[b'{"n":1}'] * 2, b"{}"]


def test_a_step_that_fails_says_which_and_how_often() -> None:
    async def body() -> Any:
        try:
            await refuses(3)
        except StepFailed as problem:
            return [problem.name, problem.attempts, problem.cause.message, problem.code.name]

    assert ended(body, 1) == [["refuses", 2, "not 3", "COMPONENT_FAILED"]]


def test_a_step_outside_of_a_run_names_the_place_and_the_way_out() -> None:
    with pytest.raises(OutsideRun) as caught:
        asyncio.run(double(1))
    assert caught.value.code == "SM-1020"
    assert "test_wf.py:" in str(caught.value)
    assert "double.fn" in caught.value.hint
    assert double.fn(1) == 2


def test_what_no_journal_can_hold_is_named_with_its_place() -> None:
    async def body() -> Any:
        return await double({"rows": [1, object()]})  # type: ignore[arg-type]

    turn = Journal(1).replay(body)
    assert isinstance(turn.error, NotSerialisable)
    assert "$.n.rows[1] is object" in str(turn.error)
    assert "test_wf.py:" in str(turn.error)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("3d", 259_200), ("1h30m", 5_400), ("500ms", 0.5), ("1.5s", 1.5), (2, 2.0), (timedelta(weeks=4), 2_419_200), (0, 0.0)],
)
def test_durations(duration: Duration, expected: float) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize("duration", ["", "3", "d", "3 days", "1h 30m", "-1s", -1, float("inf"), float("nan"), "3d!"])
def test_what_is_no_duration_is_refused(duration: Duration) -> None:
    with pytest.raises(BadDuration) as caught:
        seconds(duration)
    assert caught.value.code == "SM-1070"


def test_a_sleep_ends_at_its_time_and_no_other() -> None:
    async def body() -> Any:
        await wf.sleep("3d", name="cooldown")
        one = wf.now()
        await wf.sleep_until(BEGAN + timedelta(days=30))
        two = wf.now()
        await wf.sleep_until(BEGAN)  # past
        return [one, two, wf.now() >= two]

    assert ended(body, 3) == [[BEGAN + timedelta(days=3), BEGAN + timedelta(days=30), True]]


def test_chance_and_ids_are_those_of_the_run() -> None:
    async def body() -> Any:
        drawn = [wf.random().random(), wf.random().random(), str(wf.uuid()), str(wf.uuid())]
        await double(1)
        return [*drawn, wf.random().random()]

    (values,) = ended(body, 5)
    assert len({*values}) == 5


def test_a_side_effect_is_made_once() -> None:
    made: list[int] = []

    async def body() -> Any:
        value = wf.side_effect("reading", lambda: made.append(1) or len(made))
        return [await double(value), value]

    journal = Journal(1)
    assert journal.run(body).value == [2, 1]
    assert journal.turns > 1
    assert made == [1]


def test_a_side_effect_may_ask_clocks_and_chance() -> None:
    guarded()

    async def body() -> Any:
        made = [wf.side_effect("clock", time.time) > 0, wf.side_effect("id", lambda: len(str(uuid.uuid4())))]
        await double(1)
        return made

    assert ended(body, 2) == [[True, 36]]


def test_the_first_of_several_wins_and_the_others_are_let_go() -> None:
    async def body() -> Any:
        return await wf.first(double(1), double(2), double(3))

    assert sorted(ended(body)) == [(0, 2), (1, 4), (2, 6)]
    journal = Journal(1)
    journal.run(body)
    assert len(journal.replay(body).abandoned) == 2


def test_wait_gives_lists_in_the_order_of_what_it_was_given() -> None:
    async def body() -> Any:
        done, left = await wf.wait([double(n) for n in range(4)], return_when="first")
        every, none = await wf.wait([*left, *done])
        return [len(done), len(left), sorted(one.result() for one in every), none]

    assert ended(body) == [[1, 3, [0, 2, 4, 6], []]]


def test_the_first_of_nothing_is_an_error_and_nothing_is_over_at_once() -> None:
    async def body() -> list[Any]:
        with pytest.raises(ValueError, match=r"wf\.first was given nothing to wait for"):
            await wf.first()
        return [await wf.wait([]), await wf.wait([], return_when="first")]

    assert ended(body, 1) == [[([], []), ([], [])]]


def test_what_is_waited_for_again_and_again_keeps_nothing_of_it() -> None:
    callbacks: list[int] = []

    async def body() -> None:
        slow: asyncio.Future[Any] = asyncio.ensure_future(wf.sleep("1h"))
        for _ in range(10):
            await wf.wait([slow, asyncio.ensure_future(wf.sleep("1s"))], return_when="first")
            callbacks.append(len(slow._callbacks or ()))

    ended(body, 1)
    assert len({*callbacks}) == 1


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_map_keeps_the_order_and_its_limit(limit: int) -> None:
    most = 0

    async def body() -> Any:
        return await wf.map(double, range(6), limit=limit)

    for seed in range(20):
        journal = Journal(seed)
        while (turn := journal.replay(body)).state is State.IDLE:
            journal.append(turn)
            most = max(most, len(journal.open))
            journal.complete()
        assert turn.value == [0, 2, 4, 6, 8, 10]
    assert most == (limit or 6)


def test_map_collects_what_fails_or_raises_it() -> None:
    async def odd(n: int) -> int:
        return await (refuses(n) if n % 2 else double(n))

    async def collected() -> Any:
        return [str(one) if isinstance(one, Exception) else one for one in await wf.map(odd, range(3), on_error="collect")]

    async def raised() -> Any:
        try:
            await wf.map(odd, range(3))
        except StepFailed as problem:
            return problem.name

    assert ended(collected) == [[0, "refuses failed after 2 attempts: not 1", 4]]
    assert ended(raised) == ["refuses"]


def test_a_patch_is_for_runs_that_are_not_past_it() -> None:
    async def old() -> Any:
        return [await double(1), await double(2)]

    async def new() -> Any:
        found = [await double(1)]
        if wf.patched("fraud check"):
            found.append(await double(10))
        return [*found, await double(2)]

    for completions, expected in ((0, [2, 20, 4]), (1, [2, 20, 4]), (2, [2, 4])):
        journal = Journal(1)
        for _ in range(completions):
            journal.append(journal.replay(old))
            journal.complete()
        turn = journal.run(new)
        assert (turn.state, turn.value) == (State.DONE, expected), turn.divergence


def test_a_saga_undoes_in_reverse_also_when_it_is_cancelled() -> None:
    async def body() -> Any:
        async with wf.saga() as saga:
            saga.undo(double, await double(1))
            saga.undo(double, await double(10))
            await refuses(0)

    journal = Journal(1)
    turn = journal.run(body)
    assert isinstance(turn.error, StepFailed)
    assert [one.arguments for one in commands(journal)][-2:] == [b'{"n":20}', b'{"n":2}']

    async def waits() -> Any:
        async with wf.saga() as saga:
            saga.undo(double, await double(1))
            await wf.sleep("30d")

    journal = Journal(1)
    journal.append(journal.replay(waits))
    journal.complete()
    journal.append(journal.replay(waits))
    journal.records.append(CancelAsked(BEGAN_MS + 10))
    turn = journal.replay(waits)
    assert ([one.arguments for one in turn.commands], turn.abandoned) == ([b'{"n":2}'], ["r/sleep"])
    journal.append(turn)
    journal.complete()
    assert journal.replay(waits).state is State.CANCELLED


def test_a_shield_holds_a_cancellation_back() -> None:
    reached: list[str] = []

    async def body() -> Any:
        async with wf.shield():
            await double(1)
            reached.append("inside")
        await double(2)
        reached.append("never")

    journal = Journal(1)
    journal.append(journal.replay(body))
    journal.records.append(CancelAsked(BEGAN_MS + 1))
    journal.append(journal.replay(body))
    journal.complete()
    turn = journal.run(body)
    assert turn.state is State.CANCELLED
    assert set(reached) == {"inside"}


def test_calls_children_and_attributes_are_commands() -> None:
    async def body() -> Any:
        wf.set("status", "packing")
        return [await wf.call("/gpu/render", {"value": 1}), await wf.child("flow://report", {"value": 2})]

    journal = Journal(1)
    assert journal.run(body).value == [1, 2]
    assert [(one.kind, one.name) for one in commands(journal)] == [
        (Kind.ATTRIBUTE, "status"),
        (Kind.CALL, "/gpu/render"),
        (Kind.CHILD, "flow://report"),
    ]


def test_a_step_of_a_pool_is_a_call() -> None:
    remote: Step[..., Any] = Step(lambda value: value, "render", pool="gpu")

    async def body() -> Any:
        return await remote(5)

    journal = Journal(1)
    assert journal.run(body).value == 5
    assert [(one.kind, one.name) for one in commands(journal)] == [(Kind.CALL, "/gpu/render")]


def test_a_live_body_goes_on_from_what_it_lacks() -> None:
    """Without a replay: the records of each turn are the delta."""

    async def body() -> Any:
        return [await double(1), await asyncio.gather(double(2), double(3))]

    journal, execution = Journal(3), Execution(body, BEGAN_MS)
    seen = 0
    turn = execution.turn()
    while turn.state is State.IDLE:
        journal.append(turn)
        journal.complete()
        new, seen = journal.records[seen:], len(journal.records)
        turn = execution.turn(new)
    execution.drop()
    assert (turn.state, turn.value) == (State.DONE, [2, [4, 6]])
    assert journal.replay(body).value == turn.value


@pytest.mark.parametrize(("duration", "fits"), [(LONGEST_S, True), (LONGEST_S + 1, False), (1e300, False), (float("nan"), False)])
def test_a_time_to_wait_has_an_end(duration: float, fits: bool) -> None:
    if fits:
        assert seconds(duration) == duration
        return
    with pytest.raises(BadDuration, match="a thousand years at most"):
        seconds(duration)
