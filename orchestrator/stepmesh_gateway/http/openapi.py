"""The OpenAPI 3.1 document of a registry of routes: it says what the routes say, because it is made from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from stepmesh_gateway.http.problems import PROBLEM_JSON, Problem, is_ours
from stepmesh_gateway.http.refusals import JSON, ErrorAnswer
from stepmesh_gateway.http.registry import ANY, EVENT_STREAM, OCTETS, NoQuery, Route
from stepmesh_gateway.translate.status_events import EventType

_REF = "#/components/schemas/{name}"
_CONTENT_ID = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
_PATH_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "runId": {"type": "string", "format": "uuid"},
    "flowId": _CONTENT_ID,
    "blobId": _CONTENT_ID,
}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_NAMED = re.compile(r"\{(\w+)(:path)?\}")
_ABOUT = "Flows, runs, events and blobs. Errors have one shape; their `reason` is a code that the documentation explains."


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Paths by route, schemas by type."""
    bodies = [route.body for route in routes if route.body is not None]
    types: list[type] = [ErrorAnswer, Problem, *bodies, *(route.answer for route in routes)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of: dict[type, Any] = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_NAMED.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stepmesh", "version": version("stepmesh"), "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, schema_of: Mapping[type, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "description": inspect.getdoc(route.handler) or "",
        "tags": [_tag(route.path)],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {**_success(route, schema_of), "default": _failure(route, schema_of)},
        "x-scope": route.scope.value,
    }
    if route.body is not None:
        content = {JSON: {"schema": schema_of[route.body]}}
        if route.octets:
            content[OCTETS] = {"schema": {}}
        operation["requestBody"] = {"required": _needs_body(route.body), "content": content}
    elif route.raw and route.method in _WITH_BODY:
        operation["requestBody"] = {"required": False, "content": {route.raw: {"schema": {}}}}
    return operation


def _failure(route: Route, schema_of: Mapping[type, Any]) -> dict[str, Any]:
    media, kind = (PROBLEM_JSON, Problem) if is_ours(route.path) else (JSON, ErrorAnswer)
    return _answer("What went wrong.", {media: {"schema": schema_of[kind]}})


def _success(route: Route, schema_of: Mapping[type, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media in route.media:
        if media == EVENT_STREAM:
            content[media] = {"schema": _event(schema_of[route.answer])}
        else:
            content[media] = {"schema": schema_of[route.answer] if media == JSON else {}}
    done = {str(route.status): _answer("Done.", content)}
    return {**done, "204": {"description": "The run is over, and nothing comes behind that event."}} if EVENT_STREAM in content else done


def _event(data: Mapping[str, Any]) -> dict[str, Any]:
    """One of the events that the stream consists of."""
    names = [*(kind.name.lower() for kind in EventType), "end"]
    properties = {
        "id": {"type": "string", "description": "send the last one as Last-Event-ID to go on behind it"},
        "event": {"type": "string", "enum": names},
        "data": {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": [data, {"type": "object", "maxProperties": 0}]}},
    }
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


def _answer(description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content}


def _needs_body(kind: type[msgspec.Struct]) -> bool:
    return any(field.required for field in msgspec.structs.fields(kind))


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name, _ in _NAMED.findall(route.path):
        schema = _PATH_PARAMETERS.get(name, {"type": "string", "minLength": 1})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is NoQuery:
        return
    found = msgspec.json.schema(route.query)["$defs"][route.query.__name__]
    for name, schema in found["properties"].items():
        yield {"name": name, "in": "query", "required": name in found.get("required", ()), "schema": _not_null(schema)}


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is not null when it is there."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name, about in route.headers.items():
        yield {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}


def _operation_id(route: Route) -> str:
    words = route.handler.__name__.split("_")
    name = words[0] + "".join(word.title() for word in words[1:])
    if route.raw == ANY:  # one handler takes several methods
        return f"{name}{route.method.title()}"
    if is_ours(route.path):
        return f"{name}V1"
    return name if route.path.startswith("/api/") or name != "health" else "healthShort"


def _tag(path: str) -> str:
    return path.removeprefix("/api").removeprefix("/v1").strip("/").partition("/")[0]
