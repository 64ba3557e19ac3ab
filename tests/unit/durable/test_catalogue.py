"""The errors of durable functions, each provoked: the message names file and line, the run, the likely cause, what becomes of the run, and
the fix."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.durable.bodies import BEGAN_MS, RUN, Journal, step

from stepmesh.durable import endings, execution, wf
from stepmesh.durable.activation import Activation
from stepmesh.durable.app import App
from stepmesh.durable.divergence import Divergence
from stepmesh.durable.driver import LetGo, drive
from stepmesh.durable.endings import CancelSwallowed, HistoryTooLong, LeftBehind
from stepmesh.durable.execution import Execution, State, Turn
from stepmesh.durable.guards import guarded
from stepmesh.durable.identity import Identity
from stepmesh.durable.limits import STRICT, Limits
from stepmesh.durable.steps import Step
from stepmesh.durable.testing import env
from stepmesh.durable.values import NotSerialisable, PayloadTooLarge
from stepmesh.durable.watchdog import BodyBlocked
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind, Settled
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Task

guarded()
HERE = "test_catalogue.py"


def workflow(body: Any, guard: Any = "error") -> Workflow[..., Any]:
    return App("orders").workflow(guard=guard)(body)


def line_of(body: Callable[..., Any], offset: int) -> str:
    return f"{HERE}:{body.__code__.co_firstlineno + offset}"


def turn_of(body: Callable[[], Any], limits: Limits | None = None, identity: Identity | None = None) -> Turn:
    running = Execution(body, BEGAN_MS, RUN, identity, limits or STRICT)
    try:
        return running.turn()
    finally:
        running.drop()


# --- what was recorded, and what is asked for now -----------------------------------------------------------------------


async def old() -> None:
    await step("charge", {"order": "ord_7", "total": 1200})
    await step("ship")


async def inserts() -> None:
    await step("fraud_check", "ord_7")
    await step("charge", {"order": "ord_7", "total": 1200})


async def other_total() -> None:
    await step("charge", {"order": "ord_7", "total": 1300})


async def ends() -> None:
    pass


def diverged(body: Callable[[], Any], recorded: str = "1+4f2c1e", **told: Any) -> Divergence:
    journal = Journal(1)
    journal.append(journal.replay(old))
    journal.complete()
    journal.append(journal.replay(old))
    running = Execution(body, BEGAN_MS, RUN, Identity(RUN, "order_saga", "2+9a77d0", recorded, **told))
    turn = running.turn(journal.records)
    running.drop()
    assert turn.state is State.DIVERGED
    assert turn.divergence is not None
    return turn.divergence


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (inserts, "SM-1001", ["`fraud_check` was inserted before `charge`", 'if wf.patched("fraud_check"): await fraud_check(…)']),
        (other_total, "SM-1002", ["$.value.total was 1200 and is 1300", "the result of a step"]),
        (ends, "SM-1004", ["2 recorded steps remain", "an early return, or a branch after its beginning"]),
    ],
)
def test_a_divergence_tells_all(body: Callable[[], Any], code: str, said: list[str]) -> None:
    text = str(diverged(body))
    assert text.startswith(f"{code} Replay diverged at bodies.py:"), text
    assert f"run        {RUN} (order_saga 2+9a77d0, begun on 1+4f2c1e)" in text
    assert "recorded   step charge(" in text
    assert "build 1+4f2c1e" in text
    assert "build 2+9a77d0" in text
    assert "The run        is BLOCKED at r/charge. Nothing was done twice and nothing is lost" in text
    assert "keep a worker with the old build 1+4f2c1e" in text
    for part in said:
        assert part in text


def test_a_result_that_is_not_awaited_tells_all() -> None:
    records = [Issued("r/charge", Kind.STEP, "charge", "", b"{}", "orders.py:31"), Settled("r/email", BEGAN_MS)]
    running = Execution(old, BEGAN_MS, RUN, Identity(RUN, "order_saga"))
    turn = running.turn(records)
    running.drop()
    text = str(turn.divergence)
    assert text.startswith("SM-1003 Replay diverged")
    assert "`r/email`, and the code no longer waits for it" in text
    assert 'if wf.patched("…")' in text


def test_on_the_same_build_the_suspects_are_named() -> None:
    chance = random.Random(1)

    async def draws() -> None:
        await step("charge", random.random() if chance is None else chance.random())

    made = workflow(draws, guard="off")
    first = made.begin(RUN, b"null", BEGAN_MS)
    records = first.turn().commands
    first.drop()
    second = made.begin(RUN, b"null", BEGAN_MS, recorded=made.version)
    turn = second.turn(records)
    second.drop()
    text = str(turn.divergence)
    assert text.startswith("SM-1005 Replay diverged at bodies.py:")
    assert "no deployment: the run began on this very build" in text
    assert f"Suspects in the body: {line_of(draws, 1)} SM-1010 `random.random()` changes on replay" in text
    assert "wf.random()" in text.partition("Do one of")[2]


def test_without_suspects_the_order_of_sets_is_one() -> None:
    text = str(diverged(other_total, recorded="2+9a77d0"))
    assert text.startswith("SM-1005")
    assert "lint finds nothing: look for what differs between two processes, such as the order of a set" in text


# --- what has no place in a body ----------------------------------------------------------------------------------------


def test_a_body_that_computes_for_long_is_found_with_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("stepmesh.durable.watchdog.log.error", lambda text, *values: said.append(text % values))

    async def body() -> None:
        crunch()

    def crunch() -> None:
        until = time.thread_time() + 60  # CPU time: the watchdog is far quicker
        while not said and time.thread_time() < until:
            sum(range(1000))

    turn = turn_of(body, Limits(guard="error", turn_cpu_s=0.05), Identity(RUN, "order_saga"))
    assert (turn.state, type(turn.error)) == (State.FAILED, BodyBlocked)
    text = str(turn.error)
    assert text.startswith(f"SM-1014 the body of run {RUN} (order_saga) keeps the worker to itself: 0.")
    assert f"{line_of(body, 1)} in body: crunch()" in text
    assert "in crunch:" in text
    assert 'await wf.run("name", function)' in text
    assert [text] == said


def test_a_worker_may_let_a_body_compute() -> None:
    async def body() -> int:
        return sum(range(200_000))

    assert turn_of(body, Limits(turn_cpu_s=1e-9, guard="off")).state is State.DONE


@pytest.mark.parametrize(
    ("ask", "code", "fix"),
    [
        (lambda: time.time(), "SM-1010", "wf.now()"),
        (lambda: Path(__file__).read_text(), "SM-1011", 'await wf.run("name", function)'),
        (lambda: asyncio.to_thread(int), "SM-1012", 'await wf.run("name", function)'),
        (lambda: asyncio.get_running_loop().run_in_executor(None, int), "SM-1012", 'await wf.run("name", function)'),
        (lambda: asyncio.open_connection("127.0.0.1", 9), "SM-1012", 'await wf.run("name", function)'),
        (lambda: asyncio.wait([]), "SM-1013", "wf.wait"),
    ],
)
def test_what_a_body_must_not_do_names_place_and_fix(ask: Callable[[], Any], code: str, fix: str) -> None:
    async def body() -> Any:
        found = ask()
        return await found if asyncio.iscoroutine(found) else found

    error = turn_of(body).error
    assert isinstance(error, StepmeshError)
    assert error.code == code
    lines = ask.__code__.co_firstlineno, body.__code__.co_firstlineno + 2  # where it is called, or awaited
    assert any(f"{HERE}:{line}" in str(error) for line in lines)
    assert fix in error.hint


# --- bad endings --------------------------------------------------------------------------------------------------------


def test_a_body_that_asks_for_something_on_its_way_out_is_told_where(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(execution.log, "warning", lambda text, *values: said.append(text % values))

    async def body() -> None:
        try:
            await step("charge")
        finally:
            await wf.run("refund", lambda: None)

    turn_of(body, identity=Identity(RUN, "order_saga"))
    (text,) = said
    assert text.startswith(
        f"SM-1015 step `refund` at {line_of(body, 4)} is asked for while run {RUN} (order_saga) is put away, and is not done"
    )
    assert "it stands in an `except:` or `finally:`" in text
    assert "catch StepFailed or Exception, and clean up in `async with wf.saga():`" in text


def cancelled(body: Callable[[], Any], limits: Limits, suspects: list[str]) -> Turn:
    running = Execution(body, BEGAN_MS, RUN, Identity(RUN, "order_saga", suspects=lambda: suspects), limits)
    first = running.turn()
    turn = running.turn([*first.commands, CancelAsked(BEGAN_MS + 1)])
    for _ in range(20):
        if turn.state is not State.IDLE:
            break
        last = turn.commands[-1]
        turn = running.turn([last, Settled(last.id, BEGAN_MS + 2)])
    running.drop()
    return turn


async def goes_on(times: int) -> str:
    try:
        await wf.run("long", lambda: 1)
    except asyncio.CancelledError:
        for _ in range(times):
            await wf.run("more", lambda: 1)
    return "over"


def test_a_body_that_goes_on_after_a_cancellation_is_ended() -> None:
    limits = Limits(after_cancel=3)
    assert cancelled(lambda: goes_on(3), limits, []).value == "over"
    turn = cancelled(
        lambda: goes_on(4), limits, ["orders.py:9 SM-1015 `except asyncio.CancelledError` swallows", "orders.py:10 SM-1010 other"]
    )
    assert (turn.state, type(turn.error)) == (State.CANCELLED, CancelSwallowed)
    text = str(turn.error)
    assert text.startswith(
        f"SM-1016 run {RUN} (order_saga) was cancelled, and the body went on: `more` at {line_of(goes_on, 5)} is command 4"
    )
    assert "Likely cause: orders.py:9 SM-1015 `except asyncio.CancelledError` swallows. The run ends as cancelled here" in text
    assert "async with wf.shield():" in text
    assert "SM-1010" not in text


def test_what_a_shield_does_after_a_cancellation_does_not_count() -> None:
    async def body() -> None:
        async with wf.saga() as saga:
            for _ in range(10):
                saga.undo(Step(lambda: None, "refund"))
            await wf.run("long", lambda: 1)

    assert cancelled(body, Limits(after_cancel=0), []).state is State.CANCELLED


async def left() -> str:
    async def watch() -> None:
        await wf.sleep("1d")

    one = wf.run("mail", lambda: None)
    two = asyncio.ensure_future(watch())
    return f"{one is not two}"


def test_what_is_never_awaited_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = turn_of(left, identity=Identity(RUN, "order_saga"))
    assert (turn.state, type(turn.error)) == (State.FAILED, LeftBehind)
    text = str(turn.error)
    assert text.startswith(
        f"SM-1021 the body of run {RUN} (order_saga) ended, and the step `mail` ({line_of(left, 4)}) was never awaited, "
    )
    assert f"the task left.<locals>.watch ({line_of(left, 2)}) was not waited for" in text
    assert "`await` it, or say wf.detach(…)" in text

    said: list[str] = []
    monkeypatch.setattr(endings.log, "warning", lambda text, *values: said.append(text % values))
    assert turn_of(left, Limits(guard="warn")).state is State.DONE
    assert len(said) == 1
    assert turn_of(left, Limits(guard="off")).state is State.DONE
    assert len(said) == 1


async def test_what_ends_in_time_is_not_left_behind() -> None:
    @workflow
    async def body() -> Any:
        calls = [wf.run(f"s{n}", lambda: 1) for n in range(200)]
        return sum([await call for call in calls])

    async with env(body) as t:
        assert await (await t.start(body)).result() == 200


@workflow
async def nests() -> Any:
    inner = Step(lambda: 1, "inner")

    async def outer() -> Any:
        return await inner()

    return await wf.run("outer", outer)


async def test_a_step_within_a_step_is_refused() -> None:
    async with env(nests) as t:
        with pytest.raises(Exception, match="outer failed after 1 attempt") as caught:
            await (await t.start(nests)).result()
    assert f"SM-1020 the step `inner` was called inside a step ({line_of(nests.function, 4 + 1)})" in str(caught.value)
    assert "call the function by itself: `inner.fn(…)`" in str(caught.value)


async def test_what_is_made_and_awaited_later_costs_no_more() -> None:
    @workflow
    async def body() -> int:
        calls = [wf.run("many", lambda n=n: n) for n in range(2_000)]
        return sum(await asyncio.gather(*calls))

    execution = body.begin(RUN, b"null", BEGAN_MS)
    turn = execution.turn()
    assert len(turn.local) == 2_000
    execution.drop()


# --- values -------------------------------------------------------------------------------------------------------------


class Client:
    pass


async def test_what_a_step_returns_and_no_journal_can_hold_is_its_failure() -> None:
    @workflow
    async def body() -> Any:
        return await wf.run("fetch", lambda: {"items": [1, {"client": Client()}]})

    async with env(body) as t:
        with pytest.raises(Exception, match="fetch failed after 1 attempt") as caught:
            await (await t.start(body)).result()
    text = str(caught.value)
    assert "SM-1030 `fetch` (test_catalogue.py:" in text
    assert "$.items[1].client is Client, which the journal cannot hold" in text
    assert "make clients and files inside the step" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2), "result is tuple (1, 2), and comes back from the journal as list [1, 2]"),
        ({"rows": [1, (2,)]}, "result.rows[1] is tuple (2,), and comes back from the journal as list [2]"),
        ({1: "one"}, "result is dict {1: 'one'}, and comes back from the journal as dict {'1': 'one'}"),
    ],
)
async def test_what_comes_back_as_something_else_is_named_in_tests(value: Any, said: str) -> None:
    @workflow
    async def body() -> Any:
        return await wf.run("fetch", lambda: value)

    async with env(body) as t:
        with pytest.raises(Exception, match="SM-1030") as caught:
            await (await t.start(body)).result()
    assert said in str(caught.value)
    assert "`fetch` (test_catalogue.py:" in str(caught.value)
    assert "annotate what the step returns" in str(caught.value)
    async with env(body, limits=Limits()) as t:
        await (await t.start(body)).result()


async def test_what_is_annotated_comes_back_as_it_was() -> None:
    def fetch() -> tuple[int, ...]:
        return (1, 2)

    @workflow
    async def body() -> Any:
        return await wf.run("fetch", fetch) == (1, 2)

    async with env(body) as t:
        assert await (await t.start(body)).result() is True


@pytest.mark.parametrize("more", [0, 1])
async def test_an_argument_or_result_has_a_limit(more: int) -> None:
    limits = Limits(payload_bytes=100)

    @workflow
    async def takes() -> Any:
        return len(await Step(lambda text: text, "echo")("x" * (89 + more)))

    @workflow
    async def gives() -> Any:
        return len(await wf.run("make", lambda: "x" * (98 + more)))

    async with env(limits=limits) as t:
        one, two = await t.start(takes), await t.start(gives)
        if not more:
            assert (await one.result(), await two.result()) == (89, 98)
            return
        with pytest.raises(PayloadTooLarge) as caught:
            await one.result()
        with pytest.raises(Exception, match="make failed after 1 attempt: SM-1031") as failed:
            await two.result()
    assert f"SM-1031 `echo` ({line_of(takes.function, 2)}): 101 bytes, above the limit of 100" in str(caught.value)
    assert "store it as a blob" in str(caught.value)
    assert f"`make` ({line_of(gives.function, 2)}): 101 bytes, above the limit of 100" in str(failed.value)


def test_an_argument_that_no_journal_can_hold_is_raised_in_the_body() -> None:
    async def body() -> Any:
        return await Step(lambda rows: rows, "store")([1, Client()])

    error = turn_of(body).error
    assert isinstance(error, NotSerialisable)
    assert f"SM-1030 `store` ({line_of(body, 1)}): $.rows[1] is Client" in str(error)


# --- turns --------------------------------------------------------------------------------------------------------------


async def test_a_turn_that_is_not_taken_is_information(caplog: pytest.LogCaptureFixture) -> None:
    class Elsewhere:
        async def take(self, turn: FunctionTurn) -> FunctionTurned:
            why = "activation 4 has taken its place"
            return FunctionTurned(gone=True, why=why, activation=4, known=18) if turn.number else FunctionTurned(at_ms=BEGAN_MS)

    made = workflow(loops)
    task, who = Task(RunId(RUN), 0, 0, 3, 1, "f", "/f", b"null", at_ms=BEGAN_MS), Identity(RUN, "loops", made.version)
    activation = Activation(
        task, lambda at_ms, *, recorded: made.begin(RUN, b"null", at_ms), Elsewhere(), asyncio.Event(), made.version, False, who, made.where
    )
    with caplog.at_level("INFO", "stepmesh.durable"), pytest.raises(LetGo):
        await drive(activation)
    (record,) = [record for record in caplog.records if "SM-1041" in record.message]
    assert record.levelname == "INFO"
    text = record.message
    assert text.startswith(f"SM-1041 a turn of run {RUN} (loops {made.version}) at {line_of(loops, 0)}, which brought `poll` (")
    assert f"`poll` ({line_of(loops, 2)}), was not taken: it was of activation 3 and knew 0 records" in text
    assert "the orchestrator has activation 4 and 18 records. Cause: activation 4 has taken its place" in text
    assert "nothing is to be done: whoever has it goes on from the journal" in text


# --- histories ----------------------------------------------------------------------------------------------------------


async def loops() -> None:
    while True:
        await wf.run("poll", lambda: 1)
        await wf.sleep("1m")


async def test_a_history_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(endings.log, "warning", lambda text, *values: said.append(text % values))
    made = workflow(loops)
    limits = Limits(history_warn=20, history_most=42)
    async with env(made, always_replay=False, limits=limits) as t:
        run = await t.start(made)
        with pytest.raises(HistoryTooLong) as caught:
            await run.result()
        assert len(run.records) == 42
    text = str(caught.value)
    assert text.startswith(
        f"SM-1050 the history of run {run.id} (loops {made.version}) has 43 records, above the limit of 42; most of them: "
    )
    assert "poll ×11, sleep ×11" in text
    assert "wf.continue_as_new(…)" in text
    (line,) = said
    assert "has 21 records, near the limit of 42" in line


async def test_up_to_its_limit_a_history_is_read() -> None:
    @workflow
    async def body() -> int:
        return sum([await wf.run("one", lambda: 1) for _ in range(10)])

    async with env(body, limits=Limits(history_warn=100, history_most=20)) as t:
        assert await (await t.start(body)).result() == 10
