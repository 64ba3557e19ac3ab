"""What HTTP itself refuses, with its codes, and any error as Stepflow's REST answers it.

`{"error": {"code": 404, "message": …, "status": "NOT_FOUND", "reason": "SM-5003", "hint"?, "data"?}}`, with that HTTP status. A refusal
by a limit names it, its value, and the setting that raises it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from stepmesh.errors import RequestRefused
from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.translate.kinds import kind_of

JSON = "application/json"


class HttpRefused(StepmeshError):
    """A request that no handler was asked about."""

    default_code = "SM-7102"

    def __init__(self, message: str, *, code: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.headers = dict(headers or {})


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """`code`: the HTTP status. `status`: name of the gRPC status. `reason`: the code in docs/errors.md. `data`: what else is known."""

    code: int
    message: str
    status: str
    reason: str
    hint: str = ""
    data: Any = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Every answer that is no success."""

    error: ErrorBody


def error_body(problem: StepmeshError) -> ErrorBody:
    """An error as REST tells it."""
    kind = kind_of(problem)
    data = problem.data if isinstance(problem, RequestRefused) else None
    return ErrorBody(kind.value[1], problem.message, kind.status, problem.code, problem.hint, data)


def error_response(problem: StepmeshError) -> Response:
    """The answer for an error."""
    body = error_body(problem)
    headers = problem.headers if isinstance(problem, HttpRefused) else {}
    if body.code == 503:
        headers = {"Retry-After": "1", **headers}
    return Response(msgspec.json.encode(ErrorAnswer(body)), body.code, headers, JSON)


def no_path(path: str) -> HttpRefused:
    """404."""
    return HttpRefused(f"there is nothing at {path[:200]!r}", code="SM-7100", hint="/openapi.json lists every path")


def no_method(method: str, path: str, allowed: Sequence[str]) -> HttpRefused:
    """405."""
    listed = ", ".join(allowed)
    return HttpRefused(f"{path[:200]} does not take {method}", code="SM-7101", hint=f"it takes {listed}", headers={"Allow": listed})


def bad_body(reason: str) -> HttpRefused:
    """400 for a body."""
    return HttpRefused(f"the body cannot be read: {reason}", code="SM-7102", hint="/openapi.json has the schema of every body")


def bad_parameter(reason: str) -> HttpRefused:
    """400 for the query or a header."""
    return HttpRefused(f"a parameter cannot be read: {reason}", code="SM-7103", hint="/openapi.json lists every parameter")


def bad_media_type(given: str, known: Sequence[str]) -> HttpRefused:
    """415."""
    return HttpRefused(
        f"a body of type {given[:100] or 'unknown'!r} is not read here", code="SM-7104", hint=f"send Content-Type: {' or '.join(known)}"
    )


def of_another_site() -> HttpRefused:
    """403."""
    return HttpRefused(
        "a page of another site may not change anything here",
        code="SM-7105",
        hint="serve the page from the same origin, through a proxy in front of both",
    )


def head_too_large(limit: int) -> HttpRefused:
    """431."""
    return HttpRefused(
        f"request line and headers are larger than {limit} bytes",
        code="SM-7106",
        hint="send less, or raise limits.header_bytes in the configuration",
        headers={"Connection": "close"},
    )


def too_slow(part: str, limit_s: float) -> HttpRefused:
    """408."""
    return HttpRefused(
        f"the {part} of the request did not come within {limit_s:g} s",
        code="SM-7107",
        hint="send it faster, or raise limits.arrival_s in the configuration",
        headers={"Connection": "close"},
    )


def too_many_connections(limit: int) -> HttpRefused:
    """503."""
    return HttpRefused(
        f"{limit} connections are open, and no more are allowed",
        code="SM-7109",
        hint="close one, come again, or raise limits.connections in the configuration",
        headers={"Connection": "close"},
    )
