"""`onError.defaultValue`: when it is used, what it sees, and that the steps which it mentions run only if it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.state import FALLBACK


def use_default(value: Any = None) -> dict[str, Any]:
    """A policy."""
    return {"onError": {"action": "useDefault", "defaultValue": value}}


def given(*steps: dict[str, Any], output: Any = None, **settings: Any) -> Engine:
    """A run of these steps, on null."""
    engine = Engine(**settings)
    engine.submit(flow(list(steps), ref(steps[-1]["id"]) if output is None else output))
    return engine


def test_without_a_value_the_default_is_null() -> None:
    engine = given(step("a", onError={"action": "useDefault"}))

    assert kinds(engine.fail("a")) == ["StepDefaulted", "ItemEnded", "RunEnded"]
    assert engine.result() == {"outcome": "success", "result": None}


def test_it_sees_the_error_the_input_variables_and_steps_before() -> None:
    value = {"e": {"$error": "$"}, "code": {"$error": "code"}, "i": {"$input": "$"}, "v": {"$variable": "x"}, "s": ref("before")}
    engine = Engine()
    engine.submit(flow([step("before"), step("a", input=ref("before"), **use_default(value))], ref("a")), 7, variables={"x": 8})
    engine.succeed("before", 9)

    engine.fail("a", ErrorCode.INVALID_INPUT, "no")

    error = {"code": "INVALID_INPUT", "message": "no"}
    assert engine.result()["result"] == {"e": error, "code": "INVALID_INPUT", "i": 7, "v": 8, "s": 9}


def test_a_step_that_only_a_default_mentions_runs_when_the_default_is_used() -> None:
    engine = given(step("spare"), step("a", **use_default(ref("spare"))))
    assert engine.dispatched() == ["a"]

    assert kinds(engine.fail("a")) == ["StepFallingBack", "StepDispatched"]
    assert engine.dispatched() == ["spare"]
    assert engine.item().phases[engine.index("a")] == FALLBACK
    engine.succeed("spare", "instead")
    assert engine.result() == {"outcome": "success", "result": "instead"}


def test_a_step_that_only_a_default_mentions_does_not_run_when_all_is_well() -> None:
    engine = given(step("spare"), step("a", **use_default(ref("spare"))))

    engine.succeed("a", 1)

    assert engine.ended_steps() == {"a": "success"}


def test_a_fallback_holds_no_slot_and_survives_a_restart() -> None:
    engine = Engine()
    engine.submit(flow([step("spare"), step("a", **use_default(ref("spare")))], ref("a")), max_concurrency=1)
    engine.fail("a")
    assert engine.live().tree.in_flight == 1  # the spare one's

    assert engine.restart() == []
    engine.succeed("spare", 5)
    assert engine.result()["result"] == 5


def test_a_default_demands_lazily_what_it_needs() -> None:
    lazy = {"$if": ref("x"), "then": ref("y"), "else": ref("z")}
    engine = given(step("x"), step("y"), step("z"), step("a", **use_default(lazy)))

    engine.fail("a")
    assert engine.dispatched() == ["x"]
    engine.succeed("x", False)
    assert engine.dispatched() == ["z"]
    engine.succeed("z", 3)
    assert engine.ended_steps() == {"x": "success", "z": "success", "a": "success"}


def test_the_input_of_a_step_does_not_wait_for_what_its_default_mentions() -> None:
    engine = given(
        step("b"),
        step("c"),
        step("spare"),
        step("a", input=[ref("b"), ref("c")], **use_default(ref("spare"))),
        output=[ref("a"), ref("spare")],
    )
    assert sorted(engine.dispatched()) == ["b", "c", "spare"]

    engine.succeed("spare", 0)
    engine.succeed("b", 1)
    assert engine.dispatched() == []
    engine.succeed("c", 2)
    assert engine.dispatched() == ["a"]


def test_a_default_that_fails_is_the_failure_of_the_step() -> None:
    engine = given(step("a", **use_default({"$input": "$.nothing"})))

    assert kinds(engine.fail("a"))[0] == "StepFailed"
    assert engine.result()["error"] == {"code": "EXPRESSION_FAILURE", "message": "Input path $.nothing not found"}


def test_a_default_that_a_skip_takes_away_is_null() -> None:
    engine = given(step("s", skip=True), step("a", **use_default([ref("s")])))

    assert kinds(engine.fail("a"))[:3] == ["StepFallingBack", "StepSkipped", "StepDefaulted"]
    assert engine.result()["result"] is None


@pytest.mark.parametrize("code", [ErrorCode.INVALID_INPUT, ErrorCode.COMPONENT_FAILED])
def test_a_default_beside_retry_is_used_when_no_retry_is_left(code: ErrorCode) -> None:
    engine = given(step("a", onError={"action": "retry", "maxRetries": 0, "defaultValue": "spent"}))

    engine.fail("a", code)

    assert engine.result() == {"outcome": "success", "result": "spent"}


def test_a_default_that_waited_sees_the_last_failure() -> None:
    value = [{"$error": "message"}, ref("spare")]
    engine = given(step("spare"), step("a", onError={"action": "retry", "maxRetries": 1, "defaultValue": value}))

    engine.fail("a", message="first")
    engine.fire()
    engine.fail("a", message="last")
    engine.succeed("spare", 1)

    assert engine.result()["result"] == ["last", 1]
