"""How failures are sorted and when a retry comes: pure functions of the failure, the step's policy and its budgets."""

from __future__ import annotations

import hashlib
from enum import Enum

import msgspec

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow.compiled import Backoff, ErrorAction, ErrorPolicy
from stepmesh_orchestrator.core.state import Wait

MAX_DELAY_MS = 366 * 24 * 3_600_000
"""A year: the longest wait that a worker may wish for. Times beyond would not fit the journal's integers."""


class Budget(Enum):
    """Which retry budget a failure draws on."""

    TRANSPORT = "transport"
    COMPONENT = "component"


_TRANSPORT = (ErrorCode.UNREACHABLE, ErrorCode.TIMEOUT)
_COMPONENT = (ErrorCode.COMPONENT_FAILED, ErrorCode.RESOURCE_UNAVAILABLE)


def retry_budget(failure: Failure, policy: ErrorPolicy, wait: Wait | None, transport_max: int) -> Budget | None:
    """The budget that pays for one more attempt, or None when there is none (left).

    Transport failures are retried under any policy; component failures with `action: retry`, or when the component asked for it
    (`retry_after_ms`); all else never.
    """
    if failure.code in _TRANSPORT:
        used = wait.transport_used if wait is not None else 0
        return Budget.TRANSPORT if used < transport_max else None
    asked = policy.action is ErrorAction.RETRY or failure.retry_after_ms is not None
    if failure.code in _COMPONENT and asked:
        used = wait.component_used if wait is not None else 0
        return Budget.COMPONENT if used < policy.max_retries else None
    return None


def delay_ms(backoff: Backoff, retry: int, failure: Failure, seed: str) -> int:
    """Delay before retry number `retry` (from 1), in ms. The component's own wish goes first.

    Jitter takes up to `jitter` of the delay away (full jitter at 1.0: AWS, "Exponential Backoff And Jitter"), from a hash of
    `seed`, so that a decision is a function of its inputs.
    """
    if failure.retry_after_ms is not None:
        return min(max(0, failure.retry_after_ms), MAX_DELAY_MS)
    base = min(float(backoff.max_ms), _growth(backoff, retry))
    if not backoff.jitter:
        return int(base)
    share = int.from_bytes(hashlib.blake2s(seed.encode(), digest_size=4).digest(), "big") / 2**32
    return int(base * (1 - backoff.jitter * share))


def _growth(backoff: Backoff, retry: int) -> float:
    if backoff.kind == "constant":
        return float(backoff.initial_ms)
    if backoff.kind == "fibonacci":
        previous, current = 0, 1
        for _ in range(min(retry, 90) - 1):
            previous, current = current, previous + current
        return float(backoff.initial_ms * current)
    try:
        return float(backoff.initial_ms * backoff.factor ** (retry - 1))
    except OverflowError:
        return float(backoff.max_ms)


def error_json(failure: Failure) -> bytes:
    """`{"code": NAME, "message": …, "data"?: …}`: the error of a FlowResult, and `$error`."""
    error: dict[str, object] = {"code": ErrorCode(failure.code).name, "message": failure.message}
    if failure.data is not None:
        error["data"] = msgspec.Raw(failure.data)
    return msgspec.json.encode(error)


def flow_result(outcome: bytes | Failure) -> bytes:
    """`{"outcome": "success", "result": …}` or `{"outcome": "failed", "error": …}`."""
    if isinstance(outcome, bytes):
        return b'{"outcome":"success","result":' + outcome + b"}"
    return b'{"outcome":"failed","error":' + error_json(outcome) + b"}"
