"""The engine against the oracle: random flows, random faults, any order of completion. Same results, each outcome recorded once.

`STEPMESH_HISTORIES` sets how many seeded histories run here (300); `just histories 100000` runs many in parallel. The state
machine makes the same histories with choices of hypothesis, which shrinks a difference to a short one and prints its blob.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.simulation.bulk import run_parallel, run_seeds
from tests.simulation.driver import World
from tests.simulation.flows import Case, Drawn, Seeded, cases
from tests.simulation.history import check_journal, compare, finish_and_compare, make_world

HISTORIES = int(os.environ.get("STEPMESH_HISTORIES", "300"))
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def test_histories_of_seeds() -> None:
    tally = run_seeds(0, HISTORIES) if HISTORIES < 2_000 else run_parallel(HISTORIES)

    assert not tally.differences, next(iter(tally.differences.values()))
    assert tally.histories == HISTORIES


def test_the_histories_reach_what_they_are_for() -> None:
    """Every kind of event and every fault occurs; else the comparison proves less than it says."""
    reached = run_seeds(1_000_000, 200).reached

    assert {
        "RunCreated", "ItemStarted", "StepDispatched", "StepSucceeded", "StepFailed", "StepDefaulted", "StepSkipped", "StepRetrying",
        "StepSleeping", "StepFallingBack", "ItemEnded", "RunEnded", "RunCancelled",
        "TreeDormant", "TreeWoken", "RunHeld", "RunReleased", "PermitAsked", "PermitMoved", "BreakerMoved", "rest_any", "wake_any",
        "EventReceived", "WaiterPlaced", "WaiterLeft", "StepAwaiting", "WaitOver", "bring_letter", "send_event",
        "RunPaused", "RunResumed", "StepWoken", "RunSeeded", "pause_any", "resume_any", "skip_sleep", "fork_any",
        "answer_task", "lose_task", "duplicate", "answer_late", "answer_odd", "fire_timer", "fire_spuriously", "resolve_flow",
        "wait_for_a_place", "evict_flows", "start_child", "submit_again", "cancel_any", "snapshot", "crash", "commit",
    } <= reached.keys()  # fmt: skip


@given(cases())
@QUIET
def test_without_faults(case: Case) -> None:
    world = World(Seeded(0))
    world.submit(case)

    finish_and_compare(world)


@given(cases(), st.integers(0, 2**32))
@QUIET
def test_results_do_not_depend_on_the_order_of_completion(case: Case, seed: int) -> None:
    world = World(Seeded(seed))
    world.submit(case)
    for _ in range(30):
        if world.is_alive:
            world.act()

    finish_and_compare(world)


class Histories(RuleBasedStateMachine):
    """Rules are what may happen to the engine; at the end everything is brought to its end and compared."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @property
    def at(self) -> World:
        """The world, once it is made."""
        assert self.world is not None
        return self.world

    @initialize(data=st.data(), first=cases())
    def begin(self, data: Any, first: Case) -> None:
        self.world = make_world(Drawn(data.draw))
        self.world.submit(first)

    @rule(case=cases())
    @precondition(lambda self: len(self.at.runs) < 3)
    def submit(self, case: Case) -> None:
        self.at.submit(case)

    @rule()
    @precondition(lambda self: self.at.tasks)
    def answer_task(self) -> None:
        self.at.answer_task()

    @rule()
    @precondition(lambda self: self.at.tasks and len(self.at.runs) < 3)
    def start_child(self) -> None:
        self.at.start_child()

    @rule()
    @precondition(lambda self: self.at.submissions and self.at.settings.remember_ended > 1)
    def submit_again(self) -> None:
        self.at.submit_again()

    @rule()
    @precondition(lambda self: self.at.tasks)
    def lose_task(self) -> None:
        self.at.lose_task()

    @rule()
    @precondition(lambda self: self.at.past)
    def duplicate(self) -> None:
        self.at.duplicate()

    @rule()
    @precondition(lambda self: self.at.late)
    def answer_late(self) -> None:
        self.at.answer_late()

    @rule()
    def answer_odd(self) -> None:
        self.at.answer_odd()

    @rule()
    @precondition(lambda self: self.at.timers or self.at.sleepers.due or self.at.calls)
    def fire_timer(self) -> None:
        self.at.fire_timer()

    @rule()
    @precondition(lambda self: self.at.timers)
    def fire_spuriously(self) -> None:
        self.at.fire_spuriously()

    @rule()
    @precondition(lambda self: self.at.timers and self.at.session.state.trees)
    def rest_any(self) -> None:
        self.at.rest_any()

    @rule()
    @precondition(lambda self: self.at.session.state.dormant)
    def wake_any(self) -> None:
        self.at.wake_any()

    @rule()
    @precondition(lambda self: self.at.is_alive)
    def pause_any(self) -> None:
        self.at.pause_any()

    @rule()
    @precondition(lambda self: self.at.operators.paused(self.at))
    def resume_any(self) -> None:
        self.at.resume_any()

    @rule()
    @precondition(lambda self: self.at.operators.asleep(self.at))
    def skip_sleep(self) -> None:
        self.at.skip_sleep()

    @rule()
    @precondition(lambda self: len(self.at.runs) < 3 and self.at.operators.sources(self.at))
    def fork_any(self) -> None:
        self.at.fork_any()

    @rule()
    @precondition(lambda self: self.at.needs)
    def resolve_flow(self) -> None:
        self.at.resolve_flow()

    @rule()
    @precondition(lambda self: self.at.postman.letters)
    def bring_letter(self) -> None:
        self.at.bring_letter()

    @rule()
    def send_event(self) -> None:
        self.at.send_event()

    @rule()
    def evict_flows(self) -> None:
        self.at.evict_flows()

    @rule()
    def commit(self) -> None:
        self.at.commit()

    @rule()
    def snapshot(self) -> None:
        self.at.snapshot()

    @rule()
    def replay(self) -> None:
        self.at.verify_replay()

    @rule()
    @precondition(lambda self: self.at.crashes < 5)
    def crash(self) -> None:
        self.at.crash()

    def teardown(self) -> None:
        """The end: choices are over, so the rest is taken in order."""
        if self.world is not None:
            self.world.choices = Seeded(0)
            self.world.finish()
            check_journal(self.world)
            compare(self.world)


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
test_machine = Histories.TestCase
