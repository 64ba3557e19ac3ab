"""From what a component raises, or returns, to the recorded failure; every text bounded."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from stepmesh import (
    Cancelled,
    ComponentError,
    ErrorCode,
    InvalidInput,
    ResourceUnavailable,
    RetryLater,
    RunFailed,
    failures,
    outcome,
)
from stepmesh.compat import StepflowError, StepflowValueError


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no message for you")


class Mine(Exception):
    pass


TABLE = [
    (ComponentError("no"), ErrorCode.COMPONENT_FAILED, "no", None),
    (ComponentError("no", code=ErrorCode.UNREACHABLE), ErrorCode.UNREACHABLE, "no", None),
    (ComponentError("no", code="TIMEOUT"), ErrorCode.TIMEOUT, "no", None),
    (ComponentError("no", code=4), ErrorCode.CANCELLED, "no", None),
    (ComponentError("no", retry_after_s=1.5), ErrorCode.COMPONENT_FAILED, "no", 1500),
    (ComponentError(), ErrorCode.COMPONENT_FAILED, "ComponentError", None),
    (InvalidInput("bad"), ErrorCode.INVALID_INPUT, "bad", None),
    (ResourceUnavailable("away"), ErrorCode.RESOURCE_UNAVAILABLE, "away", None),
    (RetryLater(2), ErrorCode.RESOURCE_UNAVAILABLE, "retry in 2 s", 2000),
    (RetryLater(timedelta(minutes=1), "busy"), ErrorCode.RESOURCE_UNAVAILABLE, "busy", 60_000),
    (Cancelled("enough"), ErrorCode.CANCELLED, "enough", None),
    (StepflowError("no"), ErrorCode.COMPONENT_FAILED, "no", None),
    (StepflowValueError("bad"), ErrorCode.INVALID_INPUT, "bad", None),
    (ValueError("bad"), ErrorCode.COMPONENT_FAILED, "bad", None),
    (TypeError("bad"), ErrorCode.COMPONENT_FAILED, "bad", None),
    (KeyError("k"), ErrorCode.COMPONENT_FAILED, "'k'", None),
    (ValueError(), ErrorCode.COMPONENT_FAILED, "ValueError", None),
    (Odd(), ErrorCode.COMPONENT_FAILED, "(Odd whose message raised RuntimeError)", None),
    (MemoryError(), ErrorCode.COMPONENT_FAILED, "MemoryError", None),
    (SystemExit(2), ErrorCode.COMPONENT_FAILED, "the component called sys.exit(2)", None),
    (TimeoutError("slow"), ErrorCode.COMPONENT_FAILED, "slow", None),
    (ValueError("\ud800"), ErrorCode.COMPONENT_FAILED, "\\ud800", None),
]


@pytest.mark.parametrize(
    ("problem", "code", "message", "after"), TABLE, ids=[repr(row[0]) if not isinstance(row[0], Odd) else "Odd" for row in TABLE]
)
def test_the_table(problem, code, message, after):
    end = outcome.raised(problem)
    assert end.output is None
    assert (end.failure.code, end.failure.message, end.failure.retry_after_ms) == (code, message, after)
    msgspec.msgpack.encode(end.failure)


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        outcome.raised(KeyboardInterrupt())


def test_self_cancel_is_told_as_such():
    assert "cancelled itself" in outcome.raised(asyncio.CancelledError()).failure.message


def test_data_has_type_traceback_and_cause():
    try:
        try:
            {}["inner"]
        except KeyError as cause:
            raise Mine("outer") from cause
    except Mine as problem:
        data = msgspec.json.decode(failures.from_exception(problem).data)
    assert data["type"].endswith("Mine")
    assert "test_data_has_type_traceback_and_cause" in data["traceback"]
    assert data["cause"]["type"] == "KeyError"
    assert data["cause"]["message"] == "'inner'"
    assert data["cause"]["cause"] is None


def test_locals_stay_out_of_the_traceback():
    secret = "canary" + "-value"
    with pytest.raises(Mine) as caught:
        raise Mine(len(secret))
    assert "canary-value" not in failures.from_exception(caught.value).data.decode()


def test_a_failed_sub_run_is_told_in_the_data():
    problem = RunFailed("r1", 0, "TIMEOUT", "slow child", {"a": 1})
    data = msgspec.json.decode(failures.from_exception(problem).data)
    assert data["run"] == {"run_id": "r1", "code": "TIMEOUT", "message": "slow child", "data": {"a": 1}}


@pytest.mark.parametrize(("length", "cut"), [(failures.MESSAGE_LIMIT, False), (failures.MESSAGE_LIMIT + 1, True), (10_000_000, True)])
def test_messages_are_cut(length, cut):
    message = failures.from_exception(ValueError("x" * length)).message
    assert message.endswith(f"… ({length} characters)") is cut
    assert len(message) < failures.MESSAGE_LIMIT + 50


def test_tracebacks_are_cut_at_their_start():
    def deep(n):
        exec("raise ValueError('" + "y" * 50_000 + "')") if n == 0 else deep(n - 1)

    try:
        deep(200)
    except ValueError as problem:
        data = failures.from_exception(problem).data
    assert len(data) < failures.TRACEBACK_LIMIT * 2
    assert msgspec.json.decode(data)["traceback"].startswith("…")


def test_endless_causes_are_cut():
    problem = ValueError("0")
    for n in range(50):
        outer = ValueError(str(n))
        outer.__cause__ = problem
        problem = outer
    data, depth = msgspec.json.decode(failures.from_exception(problem).data), 0
    while (data := data.get("cause")) is not None:
        depth += 1
    assert depth == 5


@pytest.mark.parametrize(("size", "kept"), [(1000, True), (failures.DATA_LIMIT, False)])
def test_component_data_is_bounded(size, kept):
    data = msgspec.json.decode(failures.from_exception(ComponentError("no", data={"x": "y" * size})).data)
    assert ("x" in data) is kept
    assert ("put_blob" in data.get("note", "")) is not kept


def test_component_data_that_is_not_json_is_noted():
    data = msgspec.json.decode(failures.from_exception(ComponentError("no", data=object())).data)
    assert "not JSON" in data["note"]


@pytest.mark.parametrize("after", [-1, float("inf"), float("nan"), timedelta(seconds=-5)])
def test_retry_later_wants_a_time_to_come(after):
    with pytest.raises(ValueError, match="finite"):
        RetryLater(after)


@pytest.mark.parametrize("code", ["NO_SUCH", 99])
def test_unknown_codes_are_refused(code):
    with pytest.raises((KeyError, ValueError)):
        ComponentError("x", code=code)


@pytest.mark.parametrize(("length", "fits"), [(98, True), (99, False)])
def test_outputs_are_limited(length, fits):
    end = outcome.returned("x" * length, 100)
    assert (end.failure is None) is fits
    if not fits:
        assert end.failure.code == ErrorCode.WORKER_ERROR
        assert "101 bytes" in end.failure.message
        assert "limit of 100" in end.failure.message
        assert "put_blob" in end.failure.message
        assert msgspec.json.decode(end.failure.data) == {"size_bytes": 101, "limit_bytes": 100}


def test_output_that_is_not_json_names_path_and_type():
    end = outcome.returned({"rows": [1, {"bad": object()}]}, 1000)
    assert end.failure.code == ErrorCode.WORKER_ERROR
    assert msgspec.json.decode(end.failure.data) == {"path": "$.rows[1].bad", "type": "object"}
    assert "$.rows[1].bad" in end.failure.message


def test_a_users_own_serialiser_that_breaks_is_a_component_failure():
    class Model:
        def model_dump(self, **_):
            raise RuntimeError("dump broke")

    end = outcome.returned(Model(), 1000)
    assert end.failure.code in (ErrorCode.COMPONENT_FAILED, ErrorCode.WORKER_ERROR)
    assert "dump broke" in end.failure.message
