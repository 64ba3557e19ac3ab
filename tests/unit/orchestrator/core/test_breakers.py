"""Breakers: a component that says that what it needs is not available is left alone, then tried by one attempt."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, parent_of, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.commands import ServeKeys
from stepmesh_orchestrator.core.effects import CallKeys
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash

ONE = flow([step("a")], ref("a"))
AWAY = ErrorCode.RESOURCE_UNAVAILABLE


class Storm:
    """Runs of one step each, whose component is in trouble."""

    def __init__(self, **settings: Any) -> None:
        self.engine = Engine(**settings)
        self.runs: list[RunId] = []

    def come(self, document: Any = ONE) -> RunId:
        run = RunId(f"01900000-0000-7000-8000-{len(self.runs):012x}")
        self.runs.append(run)
        self.engine.submit(document, run=run)
        return run

    def outcomes(self, *codes: ErrorCode | None) -> None:
        """Of new runs, one after the other; None is a success."""
        for code in codes:
            run = self.come()
            if code is None:
                self.engine.succeed("a", run=run)
            else:
                self.engine.fail("a", code, run=run)

    @property
    def is_open(self) -> bool:
        return bool(self.engine.state.permits.breakers)

    def wait(self) -> int:
        """Until the pause is over; how long that was, in ms."""
        before = self.engine.session.now
        due = self.engine.session.now = max(call.due_ms for call in self.engine.effects if isinstance(call, CallKeys))
        self.engine.send(ServeKeys())
        return due - before

    def flying(self) -> list[RunId]:
        return [run for run in self.runs if run in self.engine.state.runs and self.engine.item(run=run).holds_slot(0)]


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ([AWAY] * 9, False),
        ([AWAY] * 10, True),
        ([AWAY, None] * 10 + [AWAY], True),
        ([AWAY, None, None] * 20, False),
        ([ErrorCode.COMPONENT_FAILED] * 50, False),
        ([AWAY] * 9 + [ErrorCode.COMPONENT_FAILED] * 9 + [AWAY], True),
        ([AWAY] * 9 + [ErrorCode.COMPONENT_FAILED] * 12 + [AWAY], False),
    ],
)
def test_a_breaker_opens_when_ten_and_half_of_the_last_twenty_were_bad(outcomes: list[ErrorCode | None], opens: bool) -> None:
    storm = Storm()
    for outcome in outcomes:
        if not storm.is_open:
            storm.outcomes(outcome)

    assert storm.is_open is opens


def test_a_component_that_is_well_again_is_not_looked_at() -> None:
    storm = Storm()
    storm.outcomes(AWAY, *[None] * 20)

    assert not storm.engine.session.troubles


def opened(**settings: Any) -> Storm:
    storm = Storm(**settings)
    storm.outcomes(*[AWAY] * 10)
    assert storm.is_open
    return storm


def test_while_it_is_open_nothing_of_the_component_is_dispatched_and_other_components_go_on() -> None:
    storm = opened()
    run = storm.come()
    other = storm.come(flow([step("a", "/py/other")], ref("a")))

    assert storm.flying() == [other]
    (cause, _) = explain(storm.engine.state, storm.engine.live(run), storm.engine.session.now, storm.engine.session)
    assert cause.text == "ready, held back: /py/work said that what it needs is not available; one attempt tries it in 10.0 s"
    assert storm.engine.item(run=run).attempt(0) == 1, "it spends no retries"


def test_after_the_pause_one_canary_goes_and_its_success_lets_all_go() -> None:
    storm = opened()
    runs = [storm.come() for _ in range(5)]

    assert storm.wait() == 10_000
    assert storm.flying() == runs[:1]
    late = storm.come()
    assert storm.flying() == runs[:1]
    storm.engine.succeed("a", run=runs[0])

    assert storm.flying() == [*runs[1:], late]
    assert not storm.is_open
    assert not storm.engine.session.held_back


def test_a_canary_that_fails_doubles_the_pause_up_to_ten_minutes() -> None:
    storm = opened()
    for _ in range(8):
        storm.come()
    pauses: list[int] = []
    for _ in range(8):
        pauses.append(storm.wait())
        (canary,) = storm.flying()
        storm.engine.fail("a", AWAY, run=canary)

    assert pauses == [10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 600_000, 600_000]


@pytest.mark.parametrize("how", ["cancel", "lost"])
def test_a_canary_that_says_nothing_is_followed_by_another(how: str) -> None:
    storm = opened(transport_max_retries=0)
    first, second = storm.come(), storm.come()
    storm.wait()
    assert storm.flying() == [first]

    if how == "cancel":
        storm.engine.cancel(first)
    else:
        storm.engine.run = first
        storm.engine.give_up("a")

    assert storm.flying() == [second]


def test_the_first_that_comes_after_the_pause_is_the_canary() -> None:
    storm = opened()
    storm.engine.session.now += 10_000
    first, _ = storm.come(), storm.come()

    assert storm.flying() == [first]


def test_what_is_cancelled_is_held_back_no_more() -> None:
    storm = opened()
    run = storm.come()

    storm.engine.cancel(run)

    assert not any(storm.engine.session.held_back.values())
    storm.wait()
    assert storm.flying() == []


def test_an_open_breaker_survives_a_crash_and_a_snapshot() -> None:
    storm = opened()
    run = storm.come()
    state = decode_state(encode_state(storm.engine.state), storm.engine.shelf)
    assert state_hash(state) == state_hash(storm.engine.state)

    assert storm.engine.restart() == []

    assert storm.is_open
    assert storm.flying() == []
    storm.wait()
    assert storm.flying() == [run]


def test_who_is_held_back_keeps_a_slot_of_its_run() -> None:
    storm = opened()
    storm.engine.submit(ONE, *range(50), run=RunId("01900000-0000-7000-8000-00000000ffff"), max_concurrency=3)

    assert len(storm.engine.live().items) == 3


def test_breakers_can_be_switched_off() -> None:
    storm = Storm(breaker_after=0)
    storm.outcomes(*[AWAY] * 50)

    assert not storm.is_open


def test_a_slot_that_was_kept_for_a_canary_that_needs_none_goes_to_who_waits() -> None:
    """A component whose sub-run lives takes no slot when it is tried again."""
    storm, root, child = Storm(), RunId("01900000-0000-7000-8000-00000000aaaa"), RunId("child")
    engine = storm.engine
    engine.submit(ONE, run=root, max_concurrency=2)
    task = engine.tasks[-1]
    below = flow([step(name, "/py/other", input=ref("v") if name != "v" else 1) for name in "vxy"], [ref("x"), ref("y")])
    engine.submit(below, run=child, parent=parent_of(task))
    storm.outcomes(*[AWAY] * 10)
    engine.run = root
    engine.give_up("a")
    engine.fire()
    engine.succeed("v", run=child)
    assert engine.dispatched() == ["x"], "the other slot is kept for the one that is held back"

    storm.wait()

    assert sorted(engine.dispatched()) == ["a", "y"]
