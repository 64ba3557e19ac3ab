"""The registry of routes is complete, says what is served, and nothing else is served."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.unit.gateway.door import Door
from tests.unit.gateway.web import RUN, Web, refusal, web

from stepmesh_gateway.http import app, openapi
from stepmesh_gateway.http.app import ROUTES
from stepmesh_gateway.http.problems import is_ours
from stepmesh_gateway.http.registry import Route, Scope

PATHS = sorted({route.path for route in ROUTES})
PROMISED = {
    "/api/v1/health": {"GET"}, "/api/v1/components": {"GET"}, "/api/v1/flows": {"POST"}, "/api/v1/flows/{flowId}": {"GET", "DELETE"},
    "/api/v1/flows/{flowId}/variables": {"GET"}, "/api/v1/runs": {"POST", "GET"}, "/api/v1/runs/{runId}": {"GET", "DELETE"},
    "/api/v1/runs/{runId}/items": {"GET"}, "/api/v1/runs/{runId}/steps": {"GET"}, "/api/v1/runs/{runId}/steps/{stepId:path}": {"GET"},
    "/api/v1/runs/{runId}/flow": {"GET"}, "/api/v1/runs/{runId}/events": {"GET"}, "/api/v1/runs/{runId}/cancel": {"POST"},
    "/api/v1/blobs": {"POST"}, "/api/v1/blobs/{blobId}": {"GET"}, "/health": {"GET"}, "/openapi.json": {"GET"},
    **{f"/v1/runs/{{runId}}/{verb}": {"POST"} for verb in ("cancel", "pause", "resume", "wake", "retry", "fork")},
    "/v1/runs/bulk": {"POST"},
    "/api/v1/pools": {"GET"}, "/api/v1/pools/{pool}": {"GET"}, "/metrics": {"GET"},
    "/v1/deployment": {"GET"}, "/v1/dead-letters": {"GET"}, "/v1/dead-letters/{position}": {"DELETE"},
    "/v1/dead-letters/{position}/resend": {"POST"},
    "/v1/schedules": {"GET", "POST"}, "/v1/schedules/{schedule}": {"GET", "PUT", "DELETE"},
    **{f"/v1/schedules/{{schedule}}/{verb}": {"POST"} for verb in ("pause", "resume", "trigger", "backfill")},
    "/trigger/{workflow:path}": {"POST"}, "/runs/{runId}": {"GET"}, "/runs/{runId}/stream": {"GET"},
    "/v1/events": {"POST"}, "/v1/runs/{runId}/signals/{name}": {"POST"}, "/notify/{eventId}": {"POST"},
    "/v1/runs/{runId}/updates/{name}": {"POST"}, "/v1/runs/{runId}/queries/{name}": {"GET", "POST"},
    "/v1/runs/{runId}/streams/{name}": {"GET"},
    "/v1/promises/{token}/resolve": {"POST"}, "/v1/promises/{token}/reject": {"POST"},
    "/v1/hooks/{token}": {"GET", "POST", "PUT", "PATCH", "DELETE"},
}  # fmt: skip


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


def example(path: str) -> str:
    """A path with its parameters filled in; nothing is there."""
    ids = {"{runId}": RUN, "{flowId}": "0" * 64, "{blobId}": "0" * 64, "{stepId:path}": "a/b", "{pool}": "nobody"}
    for name, value in {**ids, "{name}": "paid", "{eventId}": "paid", "{token}": "smt_0"}.items():
        path = path.replace(name, value)
    return path


def test_every_route_of_stepflow_and_of_ours_is_there_and_no_other() -> None:
    found: dict[str, set[str]] = {}
    for route in ROUTES:
        found.setdefault(route.path, set()).add(route.method)
    assert found == PROMISED


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_says_all_that_there_is_to_say(route: Route) -> None:
    assert isinstance(route.scope, Scope)
    assert (route.scope is Scope.PUBLIC) == (route.path in ("/health", "/api/v1/health", "/openapi.json"))
    if route.method != "GET" or "hooks" in route.path:
        assert route.scope in (Scope.RUN, Scope.DEPLOY), "what changes something is more than reading"
    assert route.summary
    assert route.handler.__doc__
    assert (route.body is not None or bool(route.raw)) == (route.method in ("POST", "PUT") or "hooks" in route.path)
    assert not route.octets or route.body is not None


def test_the_document_is_made_from_the_routes() -> None:
    document = openapi.document(ROUTES)
    assert document["openapi"] == "3.1.0"
    told = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert told == {(route.path.replace(":path", ""), route.method) for route in ROUTES}
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert max(Counter(one["operationId"] for one in operations).values()) == 1
    text = msgspec.json.encode(document).decode()
    for target in set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text)):
        assert target in document["components"]["schemas"]


def test_the_names_of_a_surface_are_all_of_one_kind() -> None:
    stepflow = openapi.document([route for route in ROUTES if not is_ours(route.path)])["components"]["schemas"]
    of_stepflow = {name for schema, about in stepflow.items() if schema != "Problem" for name in about.get("properties", {})}
    assert not [name for name in of_stepflow if "_" in name], "camelCase throughout"
    own = openapi.document([route for route in ROUTES if is_ours(route.path)])["components"]["schemas"]
    of_ours = {name for about in own.values() for name in about.get("properties", {})}
    assert not [name for name in of_ours if name != name.lower()], "snake_case throughout"


def test_parameters_of_the_document() -> None:
    document = openapi.document(ROUTES)
    listed: dict[str, Any] = {one["name"]: one for one in document["paths"]["/api/v1/runs"]["get"]["parameters"]}
    assert set(listed) == {"status", "flowName", "rootRunId", "parentRunId", "rootsOnly", "maxDepth", "limit", "offset", "namespace"}
    assert listed["limit"]["schema"] == {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 100}
    assert "anyOf" not in str(listed)
    events: dict[str, Any] = document["paths"]["/api/v1/runs/{runId}/events"]["get"]
    assert [one["in"] for one in events["parameters"] if one["name"] == "Last-Event-ID"] == ["header"]
    assert set(events["responses"]) == {"200", "204", "default"}
    assert document["paths"]["/api/v1/runs"]["post"]["requestBody"]["required"]
    assert not document["paths"]["/api/v1/runs/{runId}/cancel"]["post"]["requestBody"]["required"]


async def test_the_document_is_served(api: Web) -> None:
    answer = await api.http.get("/openapi.json")
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(openapi.document(app.ROUTES)))


@pytest.mark.parametrize("path", PATHS)
async def test_a_method_that_the_registry_does_not_name_is_refused(api: Web, path: str) -> None:
    taken = {route.method for route in ROUTES if route.path == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - taken:
        answer = await api.http.request(method, example(path))
        refusal(answer, 405, "SM-7101")
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == taken


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body is not None], ids=lambda route: f"{route.method} {route.path}")
async def test_every_body_is_checked(api: Web, route: Route) -> None:
    path = example(route.path)
    refusal(await api.http.request(route.method, path, content=b"{}", headers={"Content-Type": "text/html"}), 415, "SM-7104")
    refusal(await api.http.request(route.method, path, content=b"[1]", headers={"Content-Type": "application/json"}), 400, "SM-7102")


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if re.search(r"\{(runId|flowId|blobId)\}", route.path)],
    ids=lambda route: f"{route.method} {route.path}",
)
async def test_every_id_is_checked(api: Web, route: Route) -> None:
    body = {"json": {}} if route.body is not None else {}
    wrong = re.sub(r"\{(runId|flowId|blobId)\}", "no-id", route.path).replace("{stepId:path}", "a")
    refusal(await api.http.request(route.method, wrong, **body), 400, "SM-7002")
    absent = await api.http.request(route.method, example(route.path), **body)
    if "signals" in route.path:  # the run may come later, and then it is there
        assert absent.json()["buffered"]
        return
    refusal(absent, 404)
