"""`concurrencyKey` of steps: how many attempts of a key are in flight at once, over all flows of a namespace."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, Engine, flow, parent_of, ref, step

from stepmesh_broker.protocol.functions import FunctionTurn
from stepmesh_broker.protocol.histories import Began
from stepmesh_broker.protocol.ids import RunId, partition_of
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitGrant, PermitReturn
from stepmesh_orchestrator.core.commands import AdvanceFunction, CancelRun, FireTimer, PauseRun, ResumeRun, ServeKeys, TakeLetter
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compile import compile_flow

CALL = flow([step("a", input={"$input": "$"}, concurrencyKey={"$input": "api"}, concurrencyLimit=2)], ref("a"))


def keyed(**more: Any) -> Engine:
    """A run of five items that all want the same."""
    engine = Engine(**more)
    engine.submit(CALL, *[{"api": "maps"}] * 5)
    return engine


def flying(engine: Engine) -> list[int]:
    done = {event.item for _, event in engine.journal if type(event).__name__ in ("StepSucceeded", "StepRetrying", "ItemEnded")}
    return [task.item for task in engine.tasks if task.item not in done]


def returned(engine: Engine) -> list[tuple[str, RunId]]:
    letters = [effect.letter for effect in engine.new_effects if isinstance(effect, Send)]
    return [(letter.key, letter.run) for letter in letters if isinstance(letter, PermitReturn)]


def test_so_many_attempts_of_a_key_are_in_flight_and_the_next_goes_when_one_ends() -> None:
    engine = keyed()
    assert flying(engine) == [0, 1]

    engine.succeed("a", item=1)
    assert flying(engine) == [0, 2]
    for item in (0, 2, 3, 4):
        engine.succeed("a", item=item)

    assert engine.state.finished[engine.run][1] == "completed"
    assert not engine.state.permits.keys
    assert not engine.session.granted
    assert not engine.session.asking


def test_a_key_is_shared_by_the_flows_of_a_namespace_and_by_no_other() -> None:
    engine = keyed()
    other = {**CALL, "name": "other"}
    engine.submit(other, {"api": "maps"}, run=RunId("01900000-0000-7000-8000-000000000002"))
    assert engine.dispatched() == []
    engine.submit(other, {"api": "mail"}, run=RunId("01900000-0000-7000-8000-000000000003"))
    assert engine.dispatched() == ["a"]
    engine.submit(other, {"api": "maps"}, run=RunId("01900000-0000-7000-8000-000000000004"), namespace="acme")
    assert engine.dispatched() == ["a"]


def test_what_asks_keeps_a_slot_of_its_tree() -> None:
    engine = Engine()
    engine.submit(CALL, *[{"api": "maps"}] * 50, max_concurrency=4)

    assert len(engine.live().items) == 4
    assert (engine.live().tree.in_flight, engine.live().tree.promised) == (2, 2)


def test_a_slot_that_an_attempt_kept_and_does_not_need_goes_to_who_waits() -> None:
    """A component whose sub-run lives holds no slot."""
    call = flow([step("a", concurrencyKey="k", concurrencyLimit=1)], ref("a"))
    below = flow([step("v"), step("x", input=ref("v")), step("y", input=ref("v"))], [ref("x"), ref("y")])
    child, other = RunId("child"), RunId("01900000-0000-7000-8000-000000000002")
    engine = Engine()
    engine.submit(call, max_concurrency=2)
    root = engine.run
    engine.submit(below, run=child, parent=parent_of(engine.tasks[0]))
    engine.submit(call, run=other)
    engine.run = root
    engine.give_up("a")
    assert engine.dispatched() == ["a"], "the other run's"
    engine.send(FireTimer(engine.timer().task))
    engine.session.now = engine.timer().due_ms
    engine.send(FireTimer(engine.timer().task))
    engine.succeed("v", 1, run=child)
    assert engine.dispatched() == ["x"], "the other slot is kept"

    engine.succeed("a", 1, run=other)

    assert sorted(engine.dispatched()) == ["a", "y"]


def test_no_attempt_keeps_a_permit_without_a_slot() -> None:
    """Else the one that has the slot would wait for the permit, and the other one for the slot, for ever."""
    first = RunId("01900000-0000-7000-8000-000000000009")
    engine = Engine()
    engine.submit(flow([step("a", concurrencyKey="k", concurrencyLimit=1)], ref("a")), run=first)
    both = flow([step(name, concurrencyKey="k", concurrencyLimit=1) for name in ("a", "b")], [ref("a"), ref("b")])
    engine.submit(both, max_concurrency=1)  # one of them asks, the other one waits for its slot
    engine.send(PauseRun(engine.run, "wait"))
    engine.succeed("a", run=first)
    assert not engine.session.granted, "a run that is paused holds no permit for what it does not do"
    engine.send(ResumeRun(engine.run))
    (name,) = engine.dispatched()
    engine.succeed(name)
    (other,) = engine.dispatched()
    engine.succeed(other)
    assert engine.state.finished[engine.run][1] == "completed"
    assert not engine.state.permits.keys


def test_a_failed_attempt_gives_its_permit_back_and_the_next_one_asks_again() -> None:
    engine = keyed()
    engine.give_up("a", item=0)
    assert flying(engine) == [1, 2]

    engine.fire()
    assert engine.dispatched() == [], "it stands behind the others"
    for item in (1, 2, 3, 4):
        engine.succeed("a", item=item)
    assert engine.tasks[-1].attempt == 2


def test_what_is_cancelled_asks_no_more() -> None:
    engine = keyed()

    engine.cancel()

    assert not engine.state.permits.keys
    assert not engine.session.asking
    assert not engine.session.granted


def test_a_recovery_asks_again_for_what_waits() -> None:
    engine = keyed()

    assert engine.restart() == []

    assert (len(engine.session.granted), len(engine.session.asking)) == (2, 3)
    engine.succeed("a", item=0)
    assert engine.dispatched() == ["a"]


def test_explain_says_how_many_are_ahead() -> None:
    engine = keyed()
    causes = explain(engine.state, engine.live(), engine.session.now, engine.session)

    assert [cause.text for cause in causes if cause.item == 4 and cause.kind == "queued"] == [
        "ready, waits for a place: 3rd of 3 of key maps (limit 2)"
    ]


def test_a_key_without_a_value_fails_the_step() -> None:
    engine = Engine()

    engine.submit(CALL, {"no": "api"})

    error = engine.result()["error"]
    assert error["code"] == ErrorCode.INVALID_INPUT.name
    assert "the key of `concurrencyKey` has no value" in error["message"]


def test_a_component_that_waits_for_its_sub_run_keeps_its_permit() -> None:
    engine = keyed()
    engine.submit(flow([step("b")], ref("b")), 1, run=RunId("01900000-0000-7000-8000-000000000009"), parent=parent_of(engine.tasks[0]))

    assert len(engine.session.granted) == 2


def test_a_home_on_another_partition_is_asked_by_letter_and_told_when_it_is_over() -> None:
    engine = Engine()
    engine.session.partitions = 2
    api = next(f"m{number}" for number in range(100) if partition_of(f"default//step/m{number}", 2) == 1)
    engine.submit(CALL, {"api": api})
    (asked,) = [effect.letter for effect in engine.new_effects if isinstance(effect, Send)]
    assert isinstance(asked, PermitAsk)
    assert engine.dispatched() == []

    engine.send(TakeLetter(PermitGrant(asked.key, asked.run)))
    assert engine.dispatched() == ["a"]
    engine.send(TakeLetter(PermitGrant(asked.key, asked.run)))
    assert engine.new == []
    engine.succeed("a")
    assert returned(engine) == [(asked.key, asked.run)]

    engine.send(TakeLetter(PermitGrant(asked.key, asked.run)))
    assert returned(engine) == [(asked.key, asked.run)]


def test_a_home_that_asks_after_attempts_changes_nothing() -> None:
    engine = keyed()

    engine.send(ServeKeys(again=True))

    assert engine.new == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"concurrencyKey": ref("a")}, "SM-2021"),
        ({"concurrencyLimit": 2}, "SM-2014"),
        ({"concurrencyKey": "k", "concurrencyLimit": 0}, "SM-2013"),
    ],
)
def test_what_is_wrong_with_keys_of_steps_is_said(fields: dict[str, Any], code: str) -> None:
    _, diagnostics = compile_flow(flow([step("a"), step("b", **fields)], ref("b")))

    assert code in [one.code for one in diagnostics.items]


def test_a_run_that_cleans_up_keeps_no_permit_for_what_it_will_not_begin() -> None:
    """Else what cleans up may wait for that very permit."""
    first = RunId("01900000-0000-7000-8000-000000000009")
    engine = Engine()
    engine.submit(flow([step("a", concurrencyKey="k", concurrencyLimit=1)], ref("a")), run=first)
    engine.submit(flow([step("f", "/py/saga"), step("b", concurrencyKey="k", concurrencyLimit=1)], [ref("f"), ref("b")]))
    began = FunctionTurn(engine.task_ref("f"), 1, 1, 0, [Began(NOW, "1+abc")])
    engine.send(AdvanceFunction(began))
    engine.send(CancelRun(engine.run, "enough"))
    engine.succeed("a", run=first)
    assert not engine.session.granted
    assert not engine.state.permits.keys
    engine.succeed("f")
    assert engine.state.finished[engine.run][1] == "cancelled"
