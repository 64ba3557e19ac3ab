"""Errors of `/v1`: `application/problem+json` (RFC 9457) with our code, the fix, and where the code is explained."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.http.refusals import HttpRefused
from stepmesh_gateway.translate.kinds import kind_of

PROBLEM_JSON = "application/problem+json"
DOCS = "docs/errors.md"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every answer of `/v1` that is no success. `code`: the one in `docs`. `hint`: what to do. `run_id`: the run that was named."""

    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    docs: str = ""
    run_id: str = ""


def is_ours(path: str) -> bool:
    """Whether a path is of our own surface, whose errors are problem documents."""
    return path.startswith(("/v1/", "/notify/", "/trigger/"))


def problem_response(problem: StepmeshError, path: Mapping[str, str]) -> Response:
    """The answer for an error. `path`: the parameters of the request's path."""
    status = kind_of(problem).value[1]
    headers = problem.headers if isinstance(problem, HttpRefused) else {}
    if status == 503:
        headers = {"Retry-After": "1", **headers}
    run = path.get("runId", "")
    body = Problem(HTTPStatus(status).phrase, status, problem.code, problem.message, problem.hint, DOCS, run)
    return Response(msgspec.json.encode(body), status, headers, PROBLEM_JSON)
