"""`/noop` and `/sleep`: carried out by the core, journaled, INVALID_INPUT at once for bad input."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.commands import FireTimer
from stepmesh_orchestrator.core.decide.builtins import MAX_SLEEP_MS
from stepmesh_orchestrator.core.effects import SetTimer


def given(component: str, value: Any, **more: Any) -> Engine:
    """A run of one built-in step."""
    engine = Engine()
    engine.submit(flow([step("a", f"/builtin/{component}", {"$literal": value}, **more)], ref("a")))
    return engine


@pytest.mark.parametrize("value", [None, 1, "x", [1, {"a": None}], {"$step": "a"}])
def test_noop_gives_its_input(value: Any) -> None:
    assert given("noop", value).result() == {"outcome": "success", "result": value}


@pytest.mark.parametrize(
    ("value", "due_ms"),
    [
        ({"duration_ms": 1500}, NOW + 1500),
        ({"duration_ms": 0}, NOW),
        ({"duration_ms": 2.9}, NOW + 2),
        ({"duration_ms": MAX_SLEEP_MS}, NOW + MAX_SLEEP_MS),
        ({"duration": 2}, NOW + 2_000),
        ({"duration": "5m"}, NOW + 300_000),
        ({"duration": None, "duration_ms": 3}, NOW + 3),
        ({"until": "2023-11-14T22:13:21Z"}, NOW + 1_000),
        ({"until": "2001-01-01T00:00:00+00:00"}, 978_307_200_000),
    ],
)
def test_sleep_is_a_timer(value: Any, due_ms: int) -> None:
    engine = given("sleep", value)

    assert kinds(engine.new)[-1] == "StepSleeping"
    assert engine.timer() == SetTimer(due_ms, TaskRef(ROOT, 0, 0, 1))
    assert engine.live().tree.in_flight == 0
    engine.fire()
    assert engine.result() == {"outcome": "success", "result": None}


def test_sleep_gives_what_it_was_to_pass_through() -> None:
    engine = given("sleep", {"duration_ms": 1, "passthrough": {"x": [1, 2]}})

    assert engine.fire(early_ms=1) == []
    engine.fire()
    assert engine.result()["result"] == {"x": [1, 2]}


def test_a_sleep_survives_a_restart_and_keeps_its_time() -> None:
    engine = given("sleep", {"duration_ms": 60_000, "passthrough": 7})
    engine.session.now += 59_000

    engine.restart()

    assert engine.new_effects == [SetTimer(NOW + 60_000, TaskRef(ROOT, 0, 0, 1))]
    engine.fire()
    assert engine.result()["result"] == 7


@pytest.mark.parametrize(
    "value",
    [
        None, 5, [], {}, {"duration_ms": 1, "duration": 1}, {"duration_ms": -1}, {"duration_ms": "1"}, {"duration_ms": True},
        {"duration_ms": MAX_SLEEP_MS + 1},
        {"duration_ms": 10**40}, {"duration": "soon"}, {"duration": "-1s"}, {"duration": -1}, {"duration": "400d"},
        {"until": "tomorrow"}, {"until": "2026-02-30T00:00:00Z"}, {"until": 5}, {"until": "9999-12-31T23:59:59Z"},
        {"duration_ms": 1, "extra": 1},
    ],
)  # fmt: skip
def test_bad_input_of_sleep(value: Any) -> None:
    error = given("sleep", value).result()["error"]

    assert error["code"] == "INVALID_INPUT"
    assert error["message"].startswith("/sleep: ")


@pytest.mark.parametrize(
    ("component", "key"), [("sleep", "passthrough"), ("eval", "input"), ("map", "items"), ("iterate", "initial_input")]
)
def test_input_that_expressions_nested_too_deeply_is_bad_input(component: str, key: str) -> None:
    nest: Any = ref("s0")
    for _ in range(90):
        nest = [nest]
    steps = [step("s0", "/builtin/noop", 1)]
    steps += [step(f"s{index}", "/builtin/noop", _renamed(nest, f"s{index - 1}")) for index in range(1, 30)]
    steps.append(step("last", f"/builtin/{component}", {key: ref("s29")}))

    engine = Engine()
    engine.submit(flow(steps, ref("last")))

    assert engine.result()["error"]["code"] == "INVALID_INPUT"


def _renamed(nest: Any, name: str) -> Any:
    return [_renamed(element, name) for element in nest] if isinstance(nest, list) else ref(name)


@pytest.mark.parametrize(
    "task", [TaskRef(RunId("nobody"), 0, 0, 1), TaskRef(ROOT, 3, 0, 1), TaskRef(ROOT, 0, 0, 2), TaskRef(ROOT, 0, 1, 1)]
)
def test_a_timer_that_nobody_waits_for_is_nothing(task: TaskRef) -> None:
    engine = given("sleep", {"duration_ms": 0})

    assert engine.send(FireTimer(task)) == []


def test_a_timer_that_rings_twice_is_heard_once() -> None:
    engine = Engine()
    engine.submit(flow([step("a", "/builtin/sleep", {"duration_ms": 1}), step("b", input=ref("a"))], ref("b")))
    engine.fire()

    assert engine.dispatched() == ["b"]
    assert engine.fire() == []
