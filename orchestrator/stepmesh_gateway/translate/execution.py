"""How runs, items and steps stand and how they ended, in stepflow.v1's numbers: the same for protobuf and REST.

The numbers are those of `stepflow/v1/common.proto`, written out so that nothing here needs protobuf.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_gateway.translate.fields import BadRequest


class ExecutionStatus(IntEnum):
    """`stepflow.v1.ExecutionStatus`."""

    UNSPECIFIED = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    PAUSED = 5
    RECOVERY_FAILED = 6


_NAMED = {
    "paused": ExecutionStatus.PAUSED,
    "completed": ExecutionStatus.COMPLETED,
    "success": ExecutionStatus.COMPLETED,
    "skipped": ExecutionStatus.COMPLETED,
    "failed": ExecutionStatus.FAILED,
    "cancelled": ExecutionStatus.CANCELLED,
}
_NOT_BEGUN = frozenset({"waiting", "not_needed"})


def execution_status(name: str) -> ExecutionStatus:
    """Of a run, an item or a step, from its status in api.py. A skipped step has completed, without an output; one that nobody
    needs, or whose inputs are not there yet, has no status."""
    if name in _NOT_BEGUN:
        return ExecutionStatus.UNSPECIFIED
    return _NAMED.get(name, ExecutionStatus.RUNNING)


_RUNS = {1: "running", 2: "completed", 3: "failed", 4: "cancelled", 5: "paused", 6: "recovery_failed"}


def run_status_name(number: int) -> str:
    """A run's status in api.py; "" for 0, which asks for any. No run is ever not recoverable here. Raises `BadRequest`."""
    if number != 0 and number not in _RUNS:
        raise BadRequest(
            f"status {number} is not one of ExecutionStatus", field="status", hint="1 running, 2 completed, 3 failed, 4 cancelled, 5 paused"
        )
    return _RUNS.get(number, "")


class Error(msgspec.Struct, frozen=True):
    """Why something failed. `data`: JSON, or None."""

    code: ErrorCode
    message: str
    data: bytes | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How an item ended: `output` (JSON) or `error`; neither while it runs."""

    output: bytes | None = None
    error: Error | None = None


ABSENT = msgspec.Raw()
"""A member that is not there: falsy, where JSON text never is."""


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str = ""
    data: msgspec.Raw = ABSENT


class _FlowResult(msgspec.Struct, frozen=True):
    outcome: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = ABSENT


_error = msgspec.json.Decoder(_Error).decode
_flow_result = msgspec.json.Decoder(_FlowResult).decode


def error_of(failure: bytes) -> Error:
    """An error of api.py, `{"code": NAME, "message", "data"?}`, as a value."""
    found = _error(failure)
    code = ErrorCode[found.code] if found.code in ErrorCode.__members__ else ErrorCode.ORCHESTRATOR_ERROR
    return Error(code, found.message, bytes(found.data) if found.data else None)


def outcome_of(result: bytes) -> Outcome:
    """A FlowResult of api.py as a value; "" is that of an item that has not ended."""
    if not result:
        return Outcome()
    found = _flow_result(result)
    if found.error:
        return Outcome(error=error_of(bytes(found.error)))
    return Outcome(bytes(found.result))
