"""What scripted components answer, said by their own names: a pure function of (component, input, attempt).

Both the oracle and the driver of the engine ask it, so a flow document alone says all that will happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VALUES: list[Any] = [
    None, False, True, 0, "", {}, [], 7, {"a": 1, "b": {"c": [1, {"d": None}]}}, {"a": False}, {"a": None, "b": []},
    [0, [1], {"a": "x"}], 12345678901234567890123, 1.0, -0.5e-7, "grüße \u2028 \" \\ \n", {"result": 5}, {"next": {"a": 1}},
]  # fmt: skip
"""Outputs, inputs and literals of many shapes."""

CODES = [
    "COMPONENT_FAILED", "RESOURCE_UNAVAILABLE", "UNREACHABLE", "TIMEOUT", "INVALID_INPUT", "CANCELLED", "COMPONENT_NOT_FOUND",
    "EXPRESSION_FAILURE", "ORCHESTRATOR_ERROR", "WORKER_ERROR",
]  # fmt: skip
NAME, NEVER = "ev", "never"
KEYS = ("k0", "k1")
"""Addresses of events from outside: one name; no event has the key `NEVER`."""


def payload(key: str) -> Any:
    """Of every event with this key, so that it does not matter which of them a wait gets."""
    return {"key": key}


@dataclass(frozen=True)
class Ok:
    """The attempt's output, a plain JSON value."""

    value: Any


@dataclass(frozen=True)
class Fail:
    """The attempt's failure. `code` is the JSON name."""

    code: str
    message: str
    retry_after_ms: int | None = None


def answer(component: str, value: Any, attempt: int) -> Ok | Fail:
    """`/t/echo`, `/t/wrap`, `/t/value/<i>`, `/t/fail/<code>`, `/t/after/<code>/<n>`, `/t/flaky/<code>/<n>`, `/t/mixed/<n>`.

    `flaky` fails n times, then echoes; `after` does so too and asks for the next attempt; `mixed` alternates two classes of failure.
    """
    kind, *arguments = component.removeprefix("/t/").split("/")
    if kind == "echo":
        return Ok(value)
    if kind == "wrap":
        return Ok({"a": value})
    if kind == "value":
        return Ok(VALUES[int(arguments[0])])
    if kind == "fail":
        return Fail(arguments[0], f"attempt {attempt} failed")
    if attempt > int(arguments[-1]):
        return Ok(value)
    if kind == "flaky":
        return Fail(arguments[0], f"attempt {attempt} failed")
    if kind == "after":
        return Fail(arguments[0], f"attempt {attempt} failed", retry_after_ms=attempt * 250)
    if kind == "mixed":
        return Fail(("UNREACHABLE", "COMPONENT_FAILED")[attempt % 2], f"attempt {attempt} failed")
    raise AssertionError(f"no scripted component {component}")
