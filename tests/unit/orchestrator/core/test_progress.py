"""How an item moves: what is needed runs, once nothing blocks it; what skips, what fails, what must execute; slots and windows."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.events import StepFailed


def given(*steps: dict[str, Any], output: Any = None, value: Any = None, **more: Any) -> Engine:
    """A run of these steps on `value`; the output is the last one's result unless it is said."""
    engine = Engine()
    engine.submit(flow(list(steps), ref(steps[-1]["id"]) if output is None else output), value, **more)
    return engine


# --- demand ---


def test_a_flow_without_steps_is_over_at_once() -> None:
    engine = Engine()

    assert kinds(engine.submit(flow([], {"x": {"$input": "$"}}), 5)) == ["RunCreated", "ItemStarted", "ItemEnded", "RunEnded"]
    assert engine.result() == {"outcome": "success", "result": {"x": 5}}


def test_what_nobody_needs_does_not_run() -> None:
    engine = given(step("a"), step("unneeded"), step("b", input=ref("a")))
    assert engine.dispatched() == ["a"]

    engine.succeed("a")
    assert engine.dispatched() == ["b"]
    engine.succeed("b")
    assert engine.ended_steps() == {"a": "success", "b": "success"}


def test_all_that_is_ready_is_in_flight_together() -> None:
    engine = given(step("a"), step("b"), step("c", input=[ref("a"), ref("b")]))
    assert engine.dispatched() == ["a", "b"]

    engine.succeed("b", 2)
    assert engine.dispatched() == []
    engine.succeed("a", 1)
    assert engine.tasks[-1].input == b"[1,2]"


@pytest.mark.parametrize(("condition", "branch"), [(True, "x"), (False, "y"), (None, "y"), (0, "x")])
def test_only_the_taken_branch_runs(condition: Any, branch: str) -> None:
    engine = given(step("c"), step("x"), step("y"), output={"$if": ref("c"), "then": ref("x"), "else": ref("y")})
    assert engine.dispatched() == ["c"]

    engine.succeed("c", condition)
    assert engine.dispatched() == [branch]


def test_a_failed_condition_is_falsy() -> None:
    engine = given(step("c"), step("y"), output={"$if": ref("c"), "then": 1, "else": ref("y")})

    engine.fail("c")

    assert engine.dispatched() == ["y"]


def test_coalesce_demands_one_element_after_the_other() -> None:
    engine = given(step("a"), step("b"), step("c"), output={"$coalesce": [ref("a"), ref("b"), ref("c")]})
    assert engine.dispatched() == ["a"]

    engine.succeed("a", None)
    assert engine.dispatched() == ["b"]
    engine.succeed("b", False)
    assert engine.result()["result"] is False


def test_ten_thousand_steps_in_a_chain_are_a_loop() -> None:
    steps = [step("s0", "/builtin/noop", 1)] + [step(f"s{n}", "/builtin/noop", ref(f"s{n - 1}")) for n in range(1, 10_000)]

    engine = given(*steps)

    assert engine.result()["result"] == 1


# --- failures ---


def test_a_failure_does_not_stop_siblings_and_is_inherited_with_no_regard_to_on_error() -> None:
    engine = given(step("a"), step("b"), step("c", input=ref("a"), onError={"action": "useDefault"}), output=[ref("c"), ref("b")])

    (_, inherited) = engine.fail("a", ErrorCode.INVALID_INPUT, "bad")
    assert isinstance(inherited, StepFailed)
    assert inherited.inherited
    engine.succeed("b")
    assert engine.result()["error"] == {"code": "INVALID_INPUT", "message": "bad"}
    assert engine.ended_steps() == {"a": "failed", "b": "success", "c": "failed"}


def test_an_inherited_expression_failure_is_inherited_too() -> None:
    engine = given(step("a", input={"$input": "$.no"}), step("b", input=ref("a"), onError={"action": "useDefault", "defaultValue": 1}))

    assert engine.result()["error"]["message"] == "Input path $.no not found"


def test_an_expression_failure_of_its_own_is_the_steps_and_not_retried() -> None:
    bad = {"$input": "$.no"}

    engine = given(step("a", input=bad, onError={"action": "useDefault", "defaultValue": 1}))
    assert engine.result()["result"] == 1
    engine = given(step("a", input=bad, onError={"action": "retry"}))
    assert engine.result()["error"]["code"] == "EXPRESSION_FAILURE"


def test_an_unknown_component_fails_its_step() -> None:
    engine = given(step("a", "/nowhere"))

    assert engine.result()["error"]["code"] == "COMPONENT_NOT_FOUND"


# --- skip ---


def test_a_truthy_skip_skips_without_a_look_at_the_input() -> None:
    engine = given(step("c"), step("slow"), step("a", input=ref("slow"), skip=ref("c")))
    assert engine.dispatched() == ["c"]

    assert kinds(engine.succeed("c", True)) == ["StepSucceeded", "StepSkipped", "ItemEnded", "RunEnded"]
    assert engine.result() == {"outcome": "success", "result": None}
    assert engine.ended_steps() == {"c": "success", "a": "skipped"}


def test_a_falsy_skip_lets_the_step_run() -> None:
    engine = given(step("c"), step("b"), step("a", input=ref("b"), skip=ref("c")))

    engine.succeed("c", False)
    assert engine.dispatched() == ["b"]
    engine.succeed("b", 5)
    assert engine.tasks[-1].input == b"5"


@pytest.mark.parametrize(("more", "result"), [({}, None), ({"onError": {"action": "useDefault", "defaultValue": 3}}, 3)])
def test_a_skip_that_fails_is_like_an_input_that_fails(more: dict[str, Any], result: Any) -> None:
    engine = given(step("a", skip={"$input": "$.no"}, **more))

    if result is None:
        assert engine.result()["error"]["code"] == "EXPRESSION_FAILURE"
    else:
        assert engine.result()["result"] == result


def test_a_reference_to_a_skipped_step_skips_or_uses_its_value() -> None:
    gone = step("gone", skip=True)
    tolerant = {"onSkip": {"action": "useDefault", "defaultValue": "none"}}
    engine = given(
        gone, step("a", "/builtin/noop", [ref("gone")]), step("b", "/builtin/noop", [ref("gone", **tolerant)]), output=[ref("a"), ref("b")]
    )

    assert engine.result()["result"] == [None, ["none"]]
    assert engine.ended_steps() == {"gone": "skipped", "a": "skipped", "b": "success"}


def test_a_skip_that_refers_to_a_skipped_step_skips() -> None:
    engine = given(step("gone", skip=True), step("a", skip=ref("gone")))

    assert engine.ended_steps() == {"gone": "skipped", "a": "skipped"}


def test_a_failure_goes_before_a_skip() -> None:
    engine = given(step("gone", skip=True), step("bad"), step("a", input=[ref("gone"), ref("bad")]))

    engine.fail("bad")

    assert engine.ended_steps()["a"] == "failed"


# --- mustExecute ---


def test_the_item_waits_for_what_must_execute() -> None:
    engine = given(step("a"), step("side", mustExecute=True), output=ref("a"))
    assert sorted(engine.dispatched()) == ["a", "side"]

    assert kinds(engine.succeed("a", 1)) == ["StepSucceeded"]
    assert kinds(engine.succeed("side")) == ["StepSucceeded", "ItemEnded", "RunEnded"]
    assert engine.result()["result"] == 1


def test_its_failure_fails_the_item_the_first_in_step_order() -> None:
    engine = given(step("x", mustExecute=True), step("y", mustExecute=True), output=1)

    engine.fail("y", message="second")
    engine.fail("x", message="first")

    assert engine.result()["error"]["message"] == "first"


def test_the_failure_of_the_output_goes_first() -> None:
    engine = given(step("x", mustExecute=True), step("a"))

    engine.fail("x", message="side")
    engine.fail("a", message="output")

    assert engine.result()["error"]["message"] == "output"


def test_a_skipped_one_fails_nothing() -> None:
    assert given(step("x", mustExecute=True, skip=True), output=1).result()["result"] == 1


# --- slots and windows ---

WIDE = [step(f"s{n}") for n in range(4)]


@pytest.mark.parametrize(("limit", "at_once"), [(1, 1), (3, 3), (4, 4), (5, 4), (0, 4), (None, 4)])
def test_tasks_in_flight_have_a_limit(limit: int | None, at_once: int) -> None:
    engine = given(*WIDE, output=[ref(f"s{n}") for n in range(4)], max_concurrency=limit)

    assert len(engine.tasks) == at_once


def test_the_default_limit_is_ten() -> None:
    engine = given(*[step(f"s{n}") for n in range(11)], output=[ref(f"s{n}") for n in range(11)])

    assert len(engine.tasks) == 10
    engine.succeed("s0")
    assert engine.dispatched() == ["s10"]


def test_a_free_slot_goes_to_a_waiting_step_before_a_new_item() -> None:
    engine = Engine()
    engine.submit(flow([step("a"), step("b")], [ref("a"), ref("b")]), 1, 2, max_concurrency=1)

    engine.succeed("a")
    assert engine.dispatched() == ["b"]
    engine.succeed("b")
    assert engine.dispatched() == ["a"]
    assert (engine.result()["outcome"], sorted(engine.live().items)) == ("success", [1])


def test_steps_that_need_no_worker_wait_for_a_slot_too_and_give_it_on() -> None:
    engine = given(step("w"), step("n", "/builtin/noop", 1), step("z", "/builtin/sleep", {"duration_ms": 5}), step("v"),
                   output=[ref("w"), ref("n"), ref("z"), ref("v")], max_concurrency=1)  # fmt: skip

    assert kinds(engine.succeed("w")) == ["StepSucceeded", "StepSucceeded", "StepSleeping", "StepDispatched"]


@pytest.mark.parametrize(("window", "active"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_the_active_items_of_a_run_have_a_limit(window: int, active: int) -> None:
    engine = Engine(item_window=window)
    engine.submit(flow([step("a")], ref("a")), 1, 2, 3, max_concurrency=0)

    assert len(engine.live().items) == active


def test_the_next_item_starts_when_one_ends_and_the_inputs_of_started_ones_are_dropped() -> None:
    engine = Engine(item_window=1)
    engine.submit(flow([step("a")], ref("a")), "one", "two", max_concurrency=0)
    assert engine.live().inputs == [None, b'"two"']

    assert kinds(engine.succeed("a")) == ["StepSucceeded", "ItemEnded", "ItemStarted", "StepDispatched"]
    engine.fail("a", item=1)
    assert engine.state.finished[engine.run][1] == "failed"
    assert [engine.result(0)["outcome"], engine.result(1)["outcome"]] == ["success", "failed"]


def test_a_larger_window_after_a_restart_is_used() -> None:
    engine = Engine(item_window=1)
    engine.submit(flow([step("a")], ref("a")), 1, 2, max_concurrency=0)
    engine.session.settings = type(engine.session.settings)(item_window=2)

    assert kinds(engine.restart()) == ["ItemStarted", "StepDispatched"]


@pytest.mark.parametrize(("known", "left"), [(True, ["b"]), (False, [])])
def test_after_a_defect_what_other_trees_may_do_stays(known: bool, left: list[str]) -> None:
    engine = Engine()
    at_fault, other = RunId("01900000-0000-7000-8000-00000000000a"), RunId("01900000-0000-7000-8000-00000000000b")
    for run in (at_fault, other):
        engine.submit(flow([step("a")], ref("a")), 1, run=run)
    for run in (at_fault, other):
        item = engine.item(run=run)
        engine.session.work.append((item, 0))
        engine.session.resolved.append((item, 0))
        engine.session.over.append(item.run)
    engine.session.drop(at_fault if known else None)
    session = engine.session
    for listed in ([item.run for item, _ in session.work], [item.run for item, _ in session.resolved], session.over):
        assert [run.id[-1] for run in listed] == left
