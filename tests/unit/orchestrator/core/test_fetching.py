"""Sub-runs whose flow is not at hand: it is asked for once, and its coming or its failure is told to all that wait."""

from __future__ import annotations

from typing import Any

from tests.unit.orchestrator.core.engine import Engine, flow, js, kinds, ref, step

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.commands import ResolveFlow
from stepmesh_orchestrator.core.effects import NeedFlow
from stepmesh_orchestrator.core.state import FETCHING

BODY = flow([step("w")], ref("w"))
NO_FLOW = Failure(ErrorCode.INVALID_INPUT, "there is no such flow")


def by_id(name: str, **more: Any) -> dict[str, Any]:
    """A step that evaluates a stored flow."""
    return step(name, "/builtin/eval", {"flow_id": "f" * 64}, **more)


def test_a_flow_by_text_is_asked_for_once_and_all_that_wait_begin() -> None:
    engine = Engine()
    inline = {"flow": {"$literal": BODY}}
    engine.submit(flow([step("a", "/builtin/eval", inline), step("b", "/builtin/eval", inline)], [ref("a"), ref("b")]))
    assert engine.new_effects[1:] == [NeedFlow(js(BODY), js(BODY))]

    engine.resolve(BODY)

    assert engine.dispatched() == ["w", "w"]


def test_a_flow_that_is_not_there_fails_the_step() -> None:
    engine = Engine()
    engine.submit(flow([by_id("a")], ref("a")))
    assert engine.need() == NeedFlow(b"f" * 64, None)

    engine.resolve(failure=NO_FLOW)

    assert engine.result()["error"]["message"] == "there is no such flow"


def test_two_that_fail_together_do_not_start_a_third_too_early() -> None:
    """Both have their outcome before either's dependents are told; the second must not count for what the first one demanded."""
    engine = Engine()
    late = step("late", input=[ref("b"), ref("c")])
    steps = [by_id("a"), by_id("b", onError={"action": "useDefault"}), step("c"), late]
    engine.submit(flow(steps, [{"$if": ref("a"), "then": 0, "else": ref("late")}, ref("b")]))

    engine.resolve(failure=NO_FLOW)

    assert engine.dispatched() == ["c"]
    engine.succeed("c", 1)
    engine.succeed("late", 2)
    assert engine.result()["result"] == [2, None]


def test_an_answer_that_nobody_waits_for_is_nothing() -> None:
    engine = Engine()
    engine.submit(flow([by_id("a")], ref("a")))
    engine.cancel()

    assert engine.send(ResolveFlow(b"f" * 64, NO_FLOW)) == []
    assert engine.send(ResolveFlow(b"never asked for")) == []


def test_a_restart_asks_again() -> None:
    engine = Engine()
    engine.submit(flow([by_id("a")], ref("a")))

    engine.restart()

    assert engine.new_effects == [NeedFlow(b"f" * 64, None)]
    assert engine.item().phases[0] == FETCHING
    assert kinds(engine.resolve(failure=NO_FLOW)) == ["StepFailed", "ItemEnded", "RunEnded"]
