"""`/eval`, `/map`, `/iterate`: sub-runs, their limits, and what their end means for the step that waits."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, ref, step

BODY = flow([step("w", input={"$input": "$"})], ref("w"))
INLINE = {"$literal": BODY}


def higher(kind: str, **value: Any) -> dict[str, Any]:
    """A flow of one higher-order step."""
    return flow([step("s", f"/builtin/{kind}", value)], ref("s"))


def given(kind: str, **value: Any) -> Engine:
    """A run of it whose body is at hand."""
    engine = Engine()
    engine.shelf.put(BODY)
    engine.submit(higher(kind, **value))
    return engine


def test_eval_runs_a_flow_given_as_text() -> None:
    engine = given("eval", flow=INLINE, input=5)

    (task,) = engine.tasks
    assert task.input == b"5"
    assert task.root == engine.run
    engine.succeed("w", "done", run=task.run)
    assert engine.result() == {"outcome": "success", "result": {"result": {"outcome": "success", "result": "done"}, "run_id": task.run}}


@pytest.mark.parametrize(("kind", "key"), [("eval", "flow"), ("map", "workflow"), ("iterate", "flow")])
def test_an_explicit_null_is_the_same_as_leaving_it_out(kind: str, key: str) -> None:
    engine = Engine()
    name = engine.shelf.put(BODY).id
    items = {"items": [1]} if kind == "map" else {}

    engine.submit(higher(kind, **{key: None, "flow_id": name}, **items))

    assert len(engine.tasks) == 1


@pytest.mark.parametrize("value", [{}, {"flow": INLINE, "flow_id": "x"}, {"flow": None, "flow_id": None}])
def test_exactly_one_of_flow_and_flow_id(value: dict[str, Any]) -> None:
    engine = given("eval", **value)

    error = engine.result()["error"]
    assert error["code"] == "INVALID_INPUT"
    assert "not both" in error["message"]


def test_an_iteration_goes_on_when_the_registry_dropped_its_flow() -> None:
    engine = given("iterate", flow=INLINE, initial_input=1)
    engine.shelf.compiled.clear()
    engine.shelf.texts.clear()

    engine.succeed("w", {"next": 2}, run=engine.tasks[-1].run)

    assert engine.tasks[-1].input == b"2"


def test_an_iteration_is_not_retried_because_a_step_inside_wished_for_its_own_retry() -> None:
    engine = Engine()
    body = flow([step("w", onError={"action": "retry", "maxRetries": 0})], ref("w"))
    engine.shelf.put(body)
    engine.submit(higher("iterate", flow={"$literal": body}))

    engine.fail("w", run=engine.tasks[-1].run, retry_after_ms=5)

    assert engine.result()["error"] == {"code": "COMPONENT_FAILED", "message": "kaput"}
