"""Exception → `Failure`: the one table from what a component raised to what the journal records.

Rules: a `ComponentError` keeps its code, message and data; every other exception is COMPONENT_FAILED with
`{type, traceback, cause}` (a ValueError of user code is not bad input). All texts are bounded and valid UTF-8, so that
no error can be too large to report. This module must not know tasks, frames or brokers.
"""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from stepmesh.errors import ComponentError, RunFailed
from stepmesh_broker.protocol.messages import ErrorCode, Failure

MESSAGE_LIMIT = 8_192
"""Characters of an error message that are kept."""
TRACEBACK_LIMIT = 16_384
"""Characters of a traceback that are kept, from its end."""
DATA_LIMIT = 262_144
"""Bytes of a `ComponentError`'s data that are kept; more is replaced by a note."""
_CAUSES = 5


def from_exception(problem: BaseException) -> Failure:
    """The failure to record for what a component raised."""
    if isinstance(problem, ComponentError):
        after = problem.retry_after_s
        return Failure(problem.code, text_of(problem), _data(problem.data), None if after is None else round(after * 1000))
    return Failure(ErrorCode.COMPONENT_FAILED, text_of(problem), _data(_describe(problem, _CAUSES)))


def of(code: ErrorCode, message: str, data: Any = None) -> Failure:
    """A failure that the worker itself found."""
    return Failure(code, clean(message, MESSAGE_LIMIT), _data(data))


def text_of(problem: BaseException) -> str:
    """The exception's message, or its type's name when it has none or cannot tell it."""
    try:
        said = str(problem)
    except Exception as second:
        said = f"({type(problem).__name__} whose message raised {type(second).__name__})"
    return clean(said, MESSAGE_LIMIT) or type(problem).__name__


def clean(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, with what is not valid Unicode escaped."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _describe(problem: BaseException, causes: int) -> dict[str, Any]:
    told: dict[str, Any] = {"type": _type_name(problem), "traceback": _traceback(problem), "cause": None}
    if isinstance(problem, RunFailed):
        told["run"] = {"run_id": problem.run, "code": problem.error_code, "message": problem.error_message, "data": problem.data}
    cause = problem.__cause__ or (None if problem.__suppress_context__ else problem.__context__)
    if cause is not None and causes:
        told["cause"] = {"message": text_of(cause), **_cause(cause, causes - 1)}
    return told


def _cause(problem: BaseException, causes: int) -> dict[str, Any]:
    told = _describe(problem, causes)
    del told["traceback"]  # the outer traceback shows the chain already
    return told


def _type_name(problem: BaseException) -> str:
    kind = type(problem)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _traceback(problem: BaseException) -> str:
    try:
        lines = "".join(traceback.format_exception(problem, limit=-30))
    except Exception as second:
        lines = f"(no traceback: formatting it raised {type(second).__name__})"
    if len(lines) > TRACEBACK_LIMIT:
        lines = "…\n" + lines[-TRACEBACK_LIMIT:]
    return clean(lines, TRACEBACK_LIMIT + 2)


def _data(data: Any) -> bytes | None:
    if data is None:
        return None
    try:
        encoded = msgspec.json.encode(data)
    except Exception as problem:
        return msgspec.json.encode({"note": f"the error's data is not JSON: {clean(str(problem), 500)}"})
    if len(encoded) > DATA_LIMIT:
        return msgspec.json.encode({"note": f"the error's data has {len(encoded)} bytes, above the limit of {DATA_LIMIT}; use put_blob"})
    return encoded
