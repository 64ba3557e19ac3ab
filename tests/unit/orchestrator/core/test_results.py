"""Results of attempts: the first one of the attempt in flight counts, all others are dropped; what is malformed is a failure."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import ROOT, Engine, flow, js, kinds, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Result, TaskRef
from stepmesh_orchestrator.core.commands import EndTask, FailAttempt
from stepmesh_orchestrator.core.decide.results import checked_json
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH

ONE = flow([step("a")], ref("a"))


def given(document: dict[str, Any] = ONE) -> Engine:
    """A run with its first step in flight."""
    engine = Engine()
    engine.submit(document)
    return engine


def raw(engine: Engine, output: bytes | None, failure: Failure | None = None) -> dict[str, Any]:
    """What becomes of the run when its step's attempt ends so."""
    engine.send(EndTask(Result(ROOT, 0, 0, 1, output, failure)))
    result: dict[str, Any] = engine.result()
    return result


def test_an_output_ends_the_step() -> None:
    engine = given()

    assert kinds(engine.succeed("a", {"x": 1})) == ["StepSucceeded", "ItemEnded", "RunEnded"]
    assert engine.result() == {"outcome": "success", "result": {"x": 1}}


@pytest.mark.parametrize(
    "place",
    [
        (RunId("nobody"), 0, 0, 1), (ROOT, 1, 0, 1), (ROOT, -1, 0, 1), (ROOT, 0, 1, 1), (ROOT, 0, 2, 1), (ROOT, 0, -1, 1), (ROOT, 0, -3, 1),
        (ROOT, 0, 0, 0), (ROOT, 0, 0, 2), (ROOT, 10**30, 10**30, 10**30),
    ],
)  # fmt: skip
def test_what_is_not_in_flight_is_dropped(place: tuple[RunId, int, int, int]) -> None:
    engine = given(flow([step("a"), step("b", input=ref("a"))], ref("b")))

    assert engine.send(EndTask(Result(*place, b"1"))) == []
    assert engine.send(FailAttempt(TaskRef(*place), Failure(ErrorCode.UNREACHABLE, ""))) == []
    assert engine.session.stale_results == 2


def test_a_second_result_is_dropped() -> None:
    engine = given(flow([step("a"), step("b")], [ref("a"), ref("b")]))
    engine.succeed("a", 1)

    assert engine.succeed("a", 2) == []
    assert engine.session.stale_results == 1


def test_a_late_result_of_an_earlier_attempt_is_dropped() -> None:
    engine = given()
    engine.give_up("a")

    assert engine.succeed("a", "late", attempt=1) == []
    engine.fire()
    assert engine.succeed("a", "late", attempt=1) == []
    engine.succeed("a", "right")
    assert engine.result()["result"] == "right"


@pytest.mark.parametrize("output", [b"", b"{", b"nope", b"NaN", b"1 2", b'"\xff"', rb'"\ud800"', b"01", b"[" * 100_000])
def test_an_output_that_is_not_json_is_a_worker_error(output: bytes) -> None:
    error = raw(given(), output)["error"]

    assert error["code"] == "WORKER_ERROR"
    assert "'a'" in error["message"]


@pytest.mark.parametrize(("output", "kept"), [(b' {"a": 1}\n', b'{"a": 1}'), (b"\t1e999", b"1e999"), ('"é"'.encode(), '"é"'.encode())])
def test_json_keeps_its_spelling_without_space_around_it(output: bytes, kept: bytes) -> None:
    assert checked_json(output) == kept


def test_nesting_has_a_limit() -> None:
    assert checked_json(b"[" * PAYLOAD_DEPTH + b"]" * PAYLOAD_DEPTH) is not None
    assert checked_json(b"[" * (PAYLOAD_DEPTH + 1) + b"]" * (PAYLOAD_DEPTH + 1)) is None
    assert checked_json(js(["[" * 1_000])) is not None


def test_neither_output_nor_failure_is_a_worker_error() -> None:
    assert raw(given(), None)["error"]["message"] == "the worker's result for step 'a' has neither output nor failure"


def test_output_and_failure_is_a_failure() -> None:
    assert raw(given(), b"1", Failure(ErrorCode.INVALID_INPUT, "no"))["error"]["message"] == "no"


@pytest.mark.parametrize("code", [0, 11, -1, 2**63])
def test_an_unknown_code_is_a_worker_error(code: int) -> None:
    error = raw(given(), None, Failure(code, "odd"))["error"]

    assert error == {"code": "WORKER_ERROR", "message": f"the worker failed with code {code}, which does not exist: odd"}


def test_data_of_an_error_is_kept_when_it_is_json() -> None:
    assert raw(given(), None, Failure(2, "no", b'{"t":1}'))["error"]["data"] == {"t": 1}
    assert "data" not in raw(given(), None, Failure(2, "no", b"{"))["error"]


def test_an_output_is_held_against_the_schema_of_its_step() -> None:
    schemas = {"type": "object", "properties": {"steps": {"type": "object", "properties": {"a": {"type": "object", "required": ["x"]}}}}}

    error = raw(given(flow([step("a")], ref("a"), schemas=schemas)), b"{}")["error"]
    assert error["code"] == "COMPONENT_FAILED"
    assert "does not match the step's schema" in error["message"]
    assert raw(given(flow([step("a")], ref("a"), schemas=schemas)), b'{"x":1}')["outcome"] == "success"


def test_the_output_of_the_flow_is_held_against_its_schema() -> None:
    document = flow([step("a")], ref("a"), schemas={"type": "object", "properties": {"output": {"type": "integer"}}})

    assert raw(given(document), b"1")["outcome"] == "success"
    error = raw(given(document), b'"x"')["error"]
    assert error["code"] == "COMPONENT_FAILED"
    assert error["message"].startswith("the flow's output does not match its schema: $")
