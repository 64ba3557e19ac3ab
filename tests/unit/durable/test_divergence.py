"""A body that changed while its run was under way: what is accepted, what is caught, where, and what the message says."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.unit.durable.bodies import BEGAN_MS, Body, Journal, step

from stepmesh.durable import loop
from stepmesh.durable.execution import Execution, State
from stepmesh_broker.protocol.histories import CancelAsked, Settled


async def before() -> Any:
    await step("reserve", {"order": "ord_7", "total": 1200})
    await step("charge", 1)
    return await step("ship")


def halfway(body: Body = before, completions: int = 2) -> Journal:
    """A history with two results."""
    journal = Journal(1)
    for _ in range(completions):
        journal.append(journal.replay(body))
        journal.complete()
    journal.append(journal.replay(body))
    return journal


async def appended() -> Any:
    shipped = await before()
    return await step("mail", shipped)


async def inserted() -> Any:
    await step("reserve", {"order": "ord_7", "total": 1200})
    await step("fraud check", "ord_7")
    await step("charge", 1)
    return await step("ship")


async def removed() -> Any:
    await step("reserve", {"order": "ord_7", "total": 1200})
    return await step("ship")


async def swapped() -> Any:
    await step("charge", 1)
    await step("reserve", {"order": "ord_7", "total": 1200})
    return await step("ship")


async def renamed() -> Any:
    await step("reserve", {"order": "ord_7", "total": 1200})
    await step("pay", 1)
    return await step("ship")


async def changed() -> Any:
    await step("reserve", {"order": "ord_7", "total": 1300})
    await step("charge", 1)
    return await step("ship")


async def ends_early() -> Any:
    return await step("reserve", {"order": "ord_7", "total": 1200})


def test_what_is_appended_is_accepted() -> None:
    journal = halfway()
    assert journal.run(appended).state is State.DONE


@pytest.mark.parametrize(
    ("body", "code", "id", "cause"),
    [
        (inserted, "SM-1001", "r/charge", "`fraud check` was inserted before `charge`"),
        (removed, "SM-1001", "r/charge", "`charge` was removed"),
        (swapped, "SM-1001", "r/reserve", "`reserve` was removed, or moved behind `charge`"),
        (renamed, "SM-1001", "r/charge", "`charge` was renamed to `pay`"),
        (changed, "SM-1002", "r/reserve", "the code that makes this argument changed"),
        (ends_early, "SM-1004", "r/charge", "an early return, or a branch after `reserve`"),
    ],
)
def test_what_is_changed_is_caught_where_it_is(body: Body, code: str, id: str, cause: str) -> None:
    turn = halfway().replay(body)
    assert turn.state is State.DIVERGED
    assert turn.divergence is not None
    assert (turn.divergence.code, turn.divergence.id) == (code, id)
    assert cause in turn.divergence.cause
    text = str(turn.divergence)
    assert re.search(r"bodies\.py:\d+", text), text
    assert turn.divergence.recorded in text
    assert turn.divergence.now in text


def test_the_message_shows_the_history_around_it() -> None:
    async def many(names: str) -> None:
        for name in names:
            await step(name)

    journal = halfway(lambda: many("abcdefghijklmnopqr"), 15)
    turn = journal.replay(lambda: many("abcdefgxhijk"))
    assert "  history    c, d, e, f, g, → h, i, j, k, l, m\n" in str(turn.divergence)
    turn = journal.replay(lambda: many("x"))
    assert "  history    → a, b, c, d, e, f\n" in str(turn.divergence)


def test_the_message_shows_the_field_that_differs() -> None:
    turn = halfway().replay(changed)
    assert turn.divergence is not None
    assert "$.value.total was 1200 and is 1300" in turn.divergence.what


@pytest.mark.parametrize(
    ("was", "now", "cause"),
    [
        ("2026-11-22T06:50:00", "2026-11-22T06:50:01", "wf.now()"),
        (1_700_000_000.5, 1_700_000_001.5, "wf.now()"),
        ("0c4f5a52-83c7-4d1c-9be1-0f3f0c5b9d11", "f71fce35-2d06-4a3c-b2a9-3cf6e0b1a6aa", "wf.uuid()"),
        (0.25, 0.75, "wf.random()"),
        (["a", "b"], ["b", "a"], "sort it"),
    ],
)
def test_the_message_names_what_makes_arguments_change(was: Any, now: Any, cause: str) -> None:
    values = iter((was, was, now))

    async def body() -> Any:
        return await step("mail", next(values))

    journal = Journal(1)
    journal.append(journal.replay(body))
    assert journal.replay(body).state is State.IDLE
    turn = journal.replay(body)
    assert turn.divergence is not None
    assert (turn.divergence.code, cause in turn.divergence.cause) == ("SM-1002", True), turn.divergence


def test_a_result_that_nobody_asked_for_is_caught() -> None:
    journal = Journal(1)
    journal.append(journal.replay(before))
    journal.records.append(Settled("r/charge", BEGAN_MS + 1))
    turn = journal.replay(before)
    assert turn.divergence is not None
    assert (turn.divergence.code, turn.divergence.id) == ("SM-1003", "r/charge")


def test_another_branch_of_a_running_gather_is_accepted() -> None:
    async def one(name: str) -> Any:
        await step(f"{name}1")
        return await step(f"{name}2", name)

    async def two() -> Any:
        return await asyncio.gather(one("a"), one("b"))

    async def three() -> Any:
        return await asyncio.gather(one("a"), one("b"), one("c"))

    for completions in range(4):
        turn = halfway(two, completions).run(three)
        assert (turn.state, turn.value) == (State.DONE, ["a", "b", "c"]), turn.divergence


def test_a_divergence_cannot_be_caught() -> None:
    reached: list[str] = []

    async def swallows() -> Any:
        while True:
            try:
                await step("other")
                reached.append("after")
            except BaseException:
                reached.append("caught")

    journal = halfway()
    execution = Execution(swallows, BEGAN_MS)
    assert execution.turn(journal.records).state is State.DIVERGED
    assert reached == []
    execution.drop()


def test_a_dropped_body_does_not_spin_and_its_finally_does_nothing() -> None:
    asked: list[str] = []

    async def stubborn() -> Any:
        try:
            while True:
                try:
                    await step("once more")
                except Exception:  # nothing of the kind comes
                    asked.append("again")
        finally:
            asked.append("finally")
            await step("cleanup")

    execution = Execution(stubborn, BEGAN_MS)
    assert [command.id for command in execution.turn().commands] == ["r/once more"]
    execution.drop()
    assert asked == ["finally"]


def test_a_body_that_catches_everything_is_dropped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[str] = []
    said: list[str] = []
    monkeypatch.setattr(loop.log, "warning", lambda text, *values: said.append(text % values))

    async def catches_everything() -> Any:
        while True:
            try:
                await step("once more")
            except BaseException as problem:
                caught.append(type(problem).__name__)

    execution = Execution(catches_everything, BEGAN_MS)
    execution.turn()
    execution.drop()
    assert set(caught) == {"GeneratorExit"}
    asked, kept = said
    assert "SM-1015 step `once more` at bodies.py:" in asked
    assert "catches_everything` (test_divergence.py:" in kept
    assert "catch StepFailed or Exception, not BaseException" in kept


def test_cancel_is_delivered_once_at_its_place() -> None:
    async def cleans_up() -> Any:
        try:
            await step("long")
        except asyncio.CancelledError:
            await step("undo")
            raise

    journal = Journal(1)
    journal.append(journal.replay(cleans_up))
    journal.records.append(CancelAsked(BEGAN_MS + 5, "by hand"))
    turn = journal.replay(cleans_up)
    assert (turn.state, turn.abandoned, [one.id for one in turn.commands]) == (State.IDLE, ["r/long"], ["r/undo"])
    journal.append(turn)
    journal.complete()
    assert journal.replay(cleans_up).state is State.CANCELLED
