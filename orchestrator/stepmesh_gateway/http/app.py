"""The HTTP application: routes of the registry over operations, and nothing beside them.

An error of ours becomes its status with code, message and hint; one that nobody foresaw is 500 with a mark that the log explains. It
must not know sockets.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.http import (
    aliases,
    answers,
    blobs,
    control,
    dead_letters,
    deployment,
    events,
    flows,
    functions,
    outside,
    pools,
    reading,
    runs,
    schedules,
)
from stepmesh_gateway.http.caller import Caller
from stepmesh_gateway.http.messages import Document
from stepmesh_gateway.http.openapi import document
from stepmesh_gateway.http.problems import is_ours, problem_response
from stepmesh_gateway.http.refusals import JSON, error_response, head_too_large, no_method, no_path, of_another_site
from stepmesh_gateway.http.registry import Asked, NoQuery, Route, Scope
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.translate.defects import defect

log = logging.getLogger("stepmesh.gateway")


async def get_openapi(asked: Asked[NoQuery, None]) -> Response:
    """This document."""
    return Response(_document(), media_type=JSON)


@cache
def _document() -> bytes:
    return msgspec.json.encode(document(ROUTES))


ROUTES: Sequence[Route] = (
    Route(
        method="GET", path="/openapi.json", scope=Scope.PUBLIC, summary="What there is to call", handler=get_openapi, answer=Document,
    ),
    *deployment.ROUTES, *pools.ROUTES, *flows.ROUTES, *runs.ROUTES, *events.ROUTES, *blobs.ROUTES,
    *outside.ROUTES, *control.ROUTES, *schedules.ROUTES, *aliases.ROUTES, *functions.ROUTES, *dead_letters.ROUTES,
)  # fmt: skip
"""Every route there is."""


def application(operations: Operations, routes: Sequence[Route] = ROUTES) -> Starlette:
    """The ASGI application."""
    by_path: defaultdict[str, dict[str, Route]] = defaultdict(dict)
    for route in routes:
        by_path[route.path][route.method] = route
    paths = [Path(path, _Endpoint(operations, methods)) for path, methods in by_path.items()]
    app = Starlette(routes=paths, exception_handlers={HTTPException: _unknown})
    app.router.redirect_slashes = False
    return app


_OTHERS = frozenset({"cross-site", "same-site"})
"""Browsers say so of a page that is not of this origin (W3C Fetch Metadata); nobody is asked for a password here, so they must not."""


class _Endpoint:
    """All methods of one path."""

    def __init__(self, operations: Operations, routes: Mapping[str, Route]) -> None:
        self._operations = operations
        self._routes = dict(routes)
        if "GET" in routes and routes["GET"].scope is not Scope.RUN:  # who looks must not change anything
            self._routes["HEAD"] = routes["GET"]

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except StepmeshError as problem:
            response = _refused(scope, problem)
        except ConnectionError:
            return  # whoever asked has gone
        except Exception:
            response = _unforeseen(scope)
        if scope["method"] == "HEAD":
            response = _head(response)
        await response(scope, receive, send)

    async def _answer(self, scope: AsgiScope, receive: Receive) -> Response:
        limits = self._operations.settings.limits
        if _head_bytes(scope) > limits.header_bytes:
            raise head_too_large(limits.header_bytes)
        if scope["path"].endswith("\n"):  # which Starlette's patterns overlook
            raise no_path(scope["path"])
        route = self._routes.get(scope["method"])
        if route is None:
            raise no_method(scope["method"], scope["path"], sorted(self._routes))
        caller = Caller(scope, receive, limits)
        if route.method != "GET" and caller.headers.get("sec-fetch-site") in _OTHERS:
            raise of_another_site()
        query = reading.query(scope["query_string"], route.query)
        body = await reading.body(route, caller)
        answer = await route.handler(Asked(self._operations, caller, scope["path_params"], query, body))
        return answers.json(answer, route.status) if isinstance(answer, msgspec.Struct) else answer


def _head_bytes(scope: AsgiScope) -> int:
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _head(response: Response) -> Response:
    """What GET would answer, without the body."""
    kept = {name: value for name, value in response.headers.items() if name != "transfer-encoding"}
    return Response(None, response.status_code, kept)


def _unknown(request: Request, problem: Exception) -> Response:
    refusal = no_path(request.url.path)
    return problem_response(refusal, {}) if is_ours(request.url.path) else error_response(refusal)


def _unforeseen(scope: AsgiScope) -> Response:
    return _refused(scope, defect(f"{scope['method']} {scope['path']}"))


def _refused(scope: AsgiScope, problem: StepmeshError) -> Response:
    """In the form of the surface that was asked."""
    return problem_response(problem, scope["path_params"]) if is_ours(scope["path"]) else error_response(problem)
