"""How a component's end reads as a result: its value as JSON text, or a failure.

Invariant: never raises, except for an interrupt of the whole process. This module must not know frames, slots or brokers.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from stepmesh import failures, payloads
from stepmesh_broker.protocol.messages import ErrorCode, Failure


class Outcome(NamedTuple):
    """Exactly one of the two is set."""

    output: bytes | None
    failure: Failure | None


def returned(value: Any, limit_bytes: int) -> Outcome:
    """A component returned `value`. What is not JSON, or larger than `limit_bytes`, is a WORKER_ERROR: another attempt would not help."""
    try:
        output = payloads.write(value)
    except payloads.NotJson as problem:
        told = {"path": problem.path, "type": problem.kind}
        return Outcome(None, failures.of(ErrorCode.WORKER_ERROR, f"the output is not JSON at {problem}", told))
    except Exception as problem:  # a property or model_dump of the user's own type
        return raised(problem)
    return within(output, limit_bytes)


def within(output: bytes, limit_bytes: int) -> Outcome:
    """A component's output as JSON text, unless it is too large."""
    if len(output) <= limit_bytes:
        return Outcome(output, None)
    sizes = {"size_bytes": len(output), "limit_bytes": limit_bytes}
    text = f"the output has {len(output)} bytes, above the limit of {limit_bytes}; store it with context.put_blob and return the blob id"
    return Outcome(None, failures.of(ErrorCode.WORKER_ERROR, text, sizes))


def raised(problem: BaseException) -> Outcome:
    """A component raised `problem`."""
    if isinstance(problem, KeyboardInterrupt):
        raise problem
    if isinstance(problem, SystemExit):
        return Outcome(None, failures.of(ErrorCode.COMPONENT_FAILED, f"the component called sys.exit({problem.code!r})"))
    if isinstance(problem, asyncio.CancelledError):
        return Outcome(
            None, failures.of(ErrorCode.COMPONENT_FAILED, "the component cancelled itself: something that it awaited was cancelled")
        )
    return Outcome(None, failures.from_exception(problem))


def timed_out(limit_s: float | None) -> Outcome:
    """The attempt ran longer than it may."""
    return Outcome(None, failures.of(ErrorCode.TIMEOUT, f"the attempt ran longer than {limit_s or 0:g} s"))


def silent(within_s: float | None) -> Outcome:
    """The attempt gave no sign of life for longer than it may."""
    return Outcome(None, failures.of(ErrorCode.TIMEOUT, f"the attempt gave no sign of life for {within_s or 0:g} s"))
