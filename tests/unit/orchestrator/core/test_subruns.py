"""`/eval`, `/map`, `/iterate`: sub-runs, their limits, and what their end means for the step that waits."""

from __future__ import annotations

from heapq import heappop
from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.decide import progress
from stepmesh_orchestrator.core.effects import ParkTask

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


# --- map ---


def mapped(items: Any, *, engine: Engine | None = None, **more: Any) -> Engine:
    """A run that maps its body over items, without a limit for the tree."""
    engine = engine or Engine()
    engine.shelf.put(BODY)
    engine.submit(higher("map", workflow=INLINE, items=items, **more), max_concurrency=0)
    return engine


def test_map_lists_the_results_in_order() -> None:
    engine = mapped([1, 2, 3])
    child = engine.tasks[0].run

    engine.succeed("w", "c", item=2, run=child)
    engine.fail("w", item=1, run=child)
    engine.succeed("w", "a", item=0, run=child)

    assert engine.result()["result"] == {
        "results": [
            {"outcome": "success", "result": "a"},
            {"outcome": "failed", "error": {"code": "COMPONENT_FAILED", "message": "kaput"}},
            {"outcome": "success", "result": "c"},
        ],
        "successful": 2,
        "failed": 1,
    }


def test_map_over_nothing() -> None:
    assert mapped([]).result()["result"] == {"results": [], "successful": 0, "failed": 0}


@pytest.mark.parametrize(("limit", "at_once"), [(1, 1), (2, 2), (3, 3), (4, 3), (0, 3), (None, 3), (10**40, 3)])
def test_map_has_its_own_limit(limit: int | None, at_once: int) -> None:
    assert len(mapped([1, 2, 3], max_concurrency=limit).tasks) == at_once


def test_the_tree_has_one_limit() -> None:
    engine = Engine()
    engine.shelf.put(BODY)
    engine.submit(higher("map", workflow=INLINE, items=[1, 2, 3]), max_concurrency=2)

    assert len(engine.tasks) == 2


def test_the_items_of_a_map_have_a_limit() -> None:
    assert len(mapped([1, 2], engine=Engine(max_items=2)).tasks) == 2
    assert "the limit is 2" in mapped([1, 2, 3], engine=Engine(max_items=2)).result()["error"]["message"]


@pytest.mark.parametrize("value", [{}, {"items": 5}, {"items": [1], "max_concurrency": -1}, {"items": [1], "flows": 1}])
def test_bad_input_of_map(value: dict[str, Any]) -> None:
    assert given("map", workflow=INLINE, **value).result()["error"]["code"] == "INVALID_INPUT"


def test_an_item_that_does_not_match_the_schema_fails_alone() -> None:
    body = flow([], {"$input": "$"}, schemas={"type": "object", "properties": {"input": {"type": "integer"}}})
    engine = Engine()
    engine.shelf.put(body)

    engine.submit(higher("map", workflow={"$literal": body}, items=[1, "x", 3]))

    results = engine.result()["result"]["results"]
    assert [one["outcome"] for one in results] == ["success", "failed", "success"]
    assert results[1]["error"]["code"] == "INVALID_INPUT"


# --- iterate ---


def iterated(*outputs: Any, engine: Engine | None = None, **more: Any) -> Engine:
    """A run that iterates over a body whose worker gives these outputs."""
    engine = engine or Engine()
    engine.shelf.put(BODY)
    engine.submit(higher("iterate", flow=INLINE, **more))
    for output in outputs:
        engine.succeed("w", output, run=engine.tasks[-1].run)
    return engine


def test_iterations_go_on_with_next_until_a_result() -> None:
    engine = iterated({"next": 1}, {"next": 2}, {"result": "end"}, initial_input=0)

    assert [task.input for task in engine.tasks] == [b"0", b"1", b"2"]
    assert len({task.run for task in engine.tasks}) == 3
    assert engine.result()["result"] == {"result": "end", "iterations": 3, "terminated": False}


@pytest.mark.parametrize("limit", [1, 2])
def test_iterations_have_a_limit(limit: int) -> None:
    outputs = [{"next": n} for n in range(limit)]

    assert iterated(*outputs, max_iterations=limit).result()["result"] == {"result": limit - 1, "iterations": limit, "terminated": True}
    assert iterated(*outputs, max_iterations=limit + 1).state.runs
    assert iterated(*outputs, engine=Engine(max_iterations=limit)).result()["result"]["terminated"] is True
    assert iterated(*outputs, engine=Engine(max_iterations=limit + 1)).state.runs


@pytest.mark.parametrize("output", [5, None, [], {}, {"other": 1}])
def test_a_body_must_say_result_or_next(output: Any) -> None:
    error = iterated(output).result()["error"]

    assert error == {"code": "COMPONENT_FAILED", "message": "Iteration flow output must contain either 'result' or 'next' field"}


def test_a_failed_iteration_is_a_failed_attempt_and_the_next_begins_anew() -> None:
    engine = Engine()
    engine.shelf.put(BODY)
    engine.submit(
        flow([step("s", "/builtin/iterate", {"flow": INLINE, "initial_input": 0}, onError={"action": "retry", "maxRetries": 1})], ref("s"))
    )
    engine.succeed("w", {"next": 1}, run=engine.tasks[-1].run)
    engine.fail("w", run=engine.tasks[-1].run)
    engine.fire()

    assert [task.input for task in engine.tasks] == [b"0", b"1", b"0"]
    assert len({task.run for task in engine.tasks}) == 3
    engine.succeed("w", {"result": 5}, run=engine.tasks[-1].run)
    assert engine.result()["result"] == {"result": 5, "iterations": 1, "terminated": False}


@pytest.mark.parametrize("value", [{"max_iterations": 0}, {"max_iterations": "x"}, {"extra": 1}])
def test_bad_input_of_iterate(value: dict[str, Any]) -> None:
    assert given("iterate", flow=INLINE, **value).result()["error"]["code"] == "INVALID_INPUT"


def test_a_stopped_iteration_fails_the_step() -> None:
    engine = iterated()

    engine.cancel(engine.tasks[-1].run)

    assert engine.result()["error"] == {"code": "CANCELLED", "message": "enough"}


# --- eval ---


@pytest.mark.parametrize("value", [{"input": 1, "variables": 5}, {"inputs": 1}])
def test_bad_input_of_eval(value: dict[str, Any]) -> None:
    assert given("eval", flow=INLINE, **value).result()["error"]["code"] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("more", "seen"), [({}, b'"given"'), ({"variables": None}, b'"given"'), ({"variables": {"v": 5}}, b"5"), ({"variables": {}}, b'"none"')]
)
def test_variables_are_inherited_unless_they_are_given(more: dict[str, Any], seen: bytes) -> None:
    body = flow([step("w", input={"$variable": "v", "default": "none"})], ref("w"))
    engine = Engine()
    engine.shelf.put(body)

    engine.submit(higher("eval", flow={"$literal": body}, **more), variables={"v": "given"})

    assert engine.tasks[-1].input == seen


def test_text_that_is_no_flow_fails_the_step() -> None:
    engine = Engine()
    bad = Failure(ErrorCode.INVALID_INPUT, "not a flow")
    engine.shelf.texts[b"5"] = bad

    engine.submit(higher("eval", flow=5))

    assert engine.result()["error"]["message"] == "not a flow"


@pytest.mark.parametrize(("depth", "outcome"), [(3, "success"), (4, "failed")])
def test_nesting_has_a_limit(depth: int, outcome: str) -> None:
    engine = Engine(max_depth=3)
    document = flow([], {"outcome": "success"})
    for _ in range(depth - 1):
        engine.shelf.put(document)
        document = flow([step("e", "/builtin/eval", {"flow": {"$literal": document}})], ref("e", path="$.result"))

    engine.submit(document)

    found = engine.result()
    while "result" in found:
        found = found["result"]
    assert found["outcome"] == outcome
    assert outcome == "success" or "nested deeper than 3" in found["error"]["message"]


def test_a_flow_that_evaluates_itself_ends() -> None:
    engine = Engine(max_depth=5)
    engine.submit(flow([step("e", "/builtin/eval", {"flow_id": {"$input": "$"}, "input": {"$input": "$"}})], ref("e")), "unknown")
    itself = engine.live().flow
    engine.resolve(failure=Failure(ErrorCode.INVALID_INPUT, "no"))

    engine.submit(
        flow([step("e", "/builtin/eval", {"flow_id": {"$input": "$"}, "input": {"$input": "$"}})], ref("e")), itself.id, run=RunId("again")
    )

    assert "a flow that evaluates itself?" in str(engine.result())
    assert not engine.state.runs


def test_sub_runs_have_the_same_id_when_they_are_decided_on_again() -> None:
    first, second = mapped([1]), mapped([1])

    assert first.tasks[0].run == second.tasks[0].run


@pytest.mark.parametrize("code", [ErrorCode.UNREACHABLE, ErrorCode.TIMEOUT])
def test_the_transport_retries_of_an_iteration_are_those_of_its_step_and_no_more(code: ErrorCode) -> None:
    engine = Engine(transport_max_retries=2)
    engine.shelf.put(BODY)
    engine.submit(higher("iterate", flow=INLINE, initial_input=0))
    for _ in range(2):
        engine.fail("w", code, run=engine.tasks[-1].run)
        engine.fire()
    engine.fail("w", code, run=engine.tasks[-1].run)

    assert [(task.run, task.attempt) for task in engine.tasks] == [(engine.tasks[0].run, attempt) for attempt in (1, 2, 3)]
    assert engine.result()["error"]["code"] == code.name
    parked = [effect for effect in engine.effects if isinstance(effect, ParkTask)]
    assert len(parked) == (code is ErrorCode.UNREACHABLE), "what is parked is the task that was lost"


def test_an_iteration_that_lost_its_worker_for_good_has_its_default() -> None:
    engine = Engine(transport_max_retries=0)
    engine.shelf.put(BODY)
    on_error = {"action": "useDefault", "defaultValue": {"$error": "code"}}
    inner = flow([step("i", "/builtin/iterate", {"flow": INLINE, "initial_input": 0})], {"result": ref("i")})
    engine.shelf.put(inner)
    engine.submit(flow([step("s", "/builtin/iterate", {"flow": {"$literal": inner}, "initial_input": 0}, onError=on_error)], ref("s")))
    engine.fail("w", ErrorCode.UNREACHABLE, run=engine.tasks[-1].run)

    assert len(engine.tasks) == 1
    assert engine.result() == {"outcome": "success", "result": "UNREACHABLE"}


# --- many sub-runs that wait for slots ---


def test_items_of_many_maps_start_in_order_and_runs_without_room_are_passed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []

    def counted(heap: list[Any]) -> Any:
        passed.append(1)
        return heappop(heap)

    monkeypatch.setattr(progress, "heappop", counted)
    maps, items = 100, 5
    engine = Engine()
    engine.shelf.put(BODY)
    body = {"$literal": BODY}
    steps = [step(f"m{n}", "/builtin/map", {"items": [*range(items)], "workflow": body, "max_concurrency": 1}) for n in range(maps)]
    engine.submit(flow(steps, [ref(f"m{n}") for n in range(maps)]), max_concurrency=maps)
    assert len(engine.tasks) == maps, "each map has one item in flight"
    first = [task.run for task in engine.tasks]
    for round_of in range(items):
        for name in first:
            engine.succeed("w", item=round_of, run=name)
    assert len(engine.tasks) == maps * items
    assert [task.run for task in engine.tasks[maps : 2 * maps]] == first
    assert engine.result()["outcome"] == "success"
    assert len(passed) <= maps * items + maps + 1


def test_the_oldest_run_with_room_gets_the_slot_also_after_a_restart() -> None:
    engine = Engine()
    engine.shelf.put(BODY)
    body = {"$literal": BODY}
    steps = [
        step("a", "/builtin/map", {"items": [1, 2, 3], "workflow": body, "max_concurrency": 1}),
        step("b", "/builtin/map", {"items": [4, 5, 6], "workflow": body}),
    ]
    engine.submit(flow(steps, [ref("a"), ref("b")]), max_concurrency=2)
    assert [task.input for task in engine.tasks] == [b"1", b"4"]
    narrow, wide = (task.run for task in engine.tasks)
    engine.restart()
    engine.succeed("w", item=0, run=wide)
    assert engine.tasks[-1].input == b"5", "the older one is at its own limit"
    engine.succeed("w", item=0, run=narrow)
    assert engine.tasks[-1].input == b"2"
