"""What SDK users raise and catch.

Two families, kept apart: *component errors* are raised inside a component to say how the attempt ended (they carry an
`ErrorCode` of the flow language); *Stepmesh errors* (`SM-…`) tell a person or a client what went wrong around a run.
This module must not know how either travels (see failures.py and requests.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_broker.protocol.messages import ErrorCode

__all__ = [
    "BadComponent",
    "BadFlow",
    "BlobNotFound",
    "BrokerError",
    "BrokerUnavailable",
    "Cancelled",
    "ComponentError",
    "EndpointNotFound",
    "ErrorCode",
    "FlowInvalid",
    "FlowNotFound",
    "InvalidInput",
    "MalformedMessage",
    "MessageTooLarge",
    "NoContext",
    "PackageMissing",
    "RequestRefused",
    "ResourceUnavailable",
    "RetryLater",
    "RunFailed",
    "RunNotFound",
    "StepmeshError",
    "StuckTask",
    "SubmissionRefusal",
    "SubmissionsRefused",
    "UnknownAddress",
    "UpdateFailed",
    "WaitTimeout",
]


class ComponentError(Exception):
    """Raise inside a component: this attempt failed with `code`, which decides whether it is retried.

    `data` is any JSON value for the reader of the error. `retry_after_s`: the earliest time for the next attempt, in seconds.
    """

    code: ErrorCode = ErrorCode.COMPONENT_FAILED

    def __init__(
        self, message: str = "", *, code: ErrorCode | str | int | None = None, data: Any = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message or type(self).__name__)
        if code is not None:
            self.code = ErrorCode[code] if isinstance(code, str) else ErrorCode(code)
        self.data = data
        self.retry_after_s = retry_after_s


class InvalidInput(ComponentError):
    """The input is wrong; another attempt would not help. `path` is a JSON path such as `$.a`."""

    code = ErrorCode.INVALID_INPUT

    def __init__(self, message: str = "", *, path: str | None = None, data: Any = None) -> None:
        super().__init__(message, data={"path": path} if data is None and path is not None else data)
        self.path = path


class ResourceUnavailable(ComponentError):
    """Something that the component needs is away for now; retried under `onError: retry`."""

    code = ErrorCode.RESOURCE_UNAVAILABLE


class RetryLater(ResourceUnavailable):
    """Ask for the next attempt no sooner than `after` (seconds or a timedelta). Holds no slot meanwhile."""

    def __init__(self, after: float | timedelta, message: str = "", *, data: Any = None) -> None:
        seconds = after.total_seconds() if isinstance(after, timedelta) else float(after)
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"RetryLater wants a finite number of seconds, not below 0; got {after!r}")
        super().__init__(message or f"retry in {seconds:g} s", data=data, retry_after_s=seconds)


class Cancelled(ComponentError):
    """The component ends itself as cancelled (`CANCELLED`, never retried)."""

    code = ErrorCode.CANCELLED


class BadComponent(StepmeshError):
    """A function cannot be registered: its path, parameters or types do not work."""

    default_code = "SM-6101"


class NoContext(StepmeshError):
    """`current_context()` outside a running component."""

    default_code = "SM-6102"


class NoTurns(StepmeshError):
    """A durable function in a worker whose gateway passes no turns on."""

    default_code = "SM-1023"


class StuckTask(StepmeshError):
    """A task that was told to stop goes on; its slot is free again only when it ends."""

    default_code = "SM-6103"


class EndpointNotFound(StepmeshError):
    """No broker address was given and none was found."""

    default_code = "SM-0110"


class PackageMissing(StepmeshError):
    """The address wants a package that this install lacks."""

    default_code = "SM-0115"


class UnknownAddress(StepmeshError):
    """A URL whose scheme no broker has."""

    default_code = "SM-0150"


class RequestRefused(StepmeshError):
    """The orchestrator refused a request. `data`: what it added, decoded from JSON."""

    default_code = "SM-5100"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "", data: Any = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.data = data


class RunNotFound(RequestRefused):
    """No such run in this namespace."""

    default_code = "SM-5003"


class FlowNotFound(RequestRefused):
    """No such flow in this namespace."""

    default_code = "SM-5004"


class BlobNotFound(RequestRefused):
    """No such blob in this namespace."""

    default_code = "SM-5005"


class FlowInvalid(RequestRefused):
    """The flow was not stored. `diagnostics`: list of `{code, level, message, path, line?, column?, hint?}`."""

    default_code = "SM-2100"

    def __init__(self, message: str, diagnostics: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message, hint="correct the flow and store it again")
        self.diagnostics = list(diagnostics)


class BadFlow(StepmeshError):
    """A flow cannot be built or read from what was given."""

    default_code = "SM-2101"


@dataclass(frozen=True)
class SubmissionRefusal:
    """A part of a producer's batch that became no run, as far as is known: `count` inputs of the batch from index `first` on. `key`: of the
    part."""

    key: str | None
    first: int
    count: int
    problem: Exception


class SubmissionsRefused(StepmeshError):
    """What a producer submitted was refused in part; the rest is journaled. `refused` says which, and why."""

    default_code = "SM-6121"

    def __init__(self, refused: Sequence[SubmissionRefusal]) -> None:
        one = refused[0]
        what = f"{one.count} inputs from {one.first} on" + ("" if one.key is None else f" of {one.key!r}")
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        super().__init__(f"{what} were not taken{more}: {one.problem}", hint="submit them again with the same key, corrected")
        self.refused = list(refused)


class WaitTimeout(StepmeshError):
    """The wait is over, not the run: it goes on."""

    default_code = "SM-5102"


class UpdateFailed(StepmeshError):
    """An update of a durable function has no reply, or one that is an error."""

    default_code = "SM-1076"


class RunFailed(StepmeshError):
    """A run ended without a result. `error_code`: name of the flow language's code; `data`: decoded JSON or None."""

    default_code = "SM-5101"

    def __init__(self, run: str, item: int, error_code: str, error_message: str, data: Any = None) -> None:
        super().__init__(f"run {run} item {item} failed with {error_code}: {error_message}", hint=f"stepmesh status {run}")
        self.run = run
        self.item = item
        self.error_code = error_code
        self.error_message = error_message
        self.data = data
