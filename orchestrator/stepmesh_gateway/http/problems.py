"""Errors of `/v1` as problem documents (RFC 9457), with the code of docs/errors.md."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.http.refusals import HttpRefused, error_body

PROBLEM = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """`title`: name of the kind of error. `code`: see `docs`."""

    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    docs: str = "docs/errors.md"


def is_ours(path: str) -> bool:
    """Whether a path is of our own surface, whose errors are problem documents."""
    return path.startswith(("/v1/", "/notify/"))


def problem_response(problem: StepmeshError) -> Response:
    """The answer for an error."""
    about = error_body(problem)
    headers = problem.headers if isinstance(problem, HttpRefused) else {}
    if about.code == 503:
        headers = {"Retry-After": "1", **headers}
    body = {"type": "about:blank", **msgspec.structs.asdict(Problem(about.status, about.code, problem.message, problem.code, problem.hint))}
    return Response(msgspec.json.encode(body), about.code, headers, PROBLEM)
