"""Query and body of a request as checked values. What does not fit is refused with its place; what nobody asked for is ignored."""

from __future__ import annotations

from typing import Any, TypeVar, get_origin

import msgspec
from starlette.datastructures import QueryParams

from stepmesh_gateway.http.caller import Caller
from stepmesh_gateway.http.messages import NULL, JsonObject, MaybeObject
from stepmesh_gateway.http.refusals import JSON, bad_body, bad_media_type, bad_parameter
from stepmesh_gateway.http.registry import OCTETS, Route

_S = TypeVar("_S", bound=msgspec.Struct)


def query(text: bytes, kind: type[_S]) -> _S:
    """Parameters by their names in `kind`; a list takes several, also with commas between. Raises `HttpRefused`."""
    given = QueryParams(text)
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        values = given.getlist(field.encode_name)
        if _is_list(field.type):
            found[field.encode_name] = [part for value in values for part in value.split(",") if part]
        elif len(values) > 1:
            raise bad_parameter(f"{field.encode_name} is given {len(values)} times")
        elif values:
            found[field.encode_name] = values[0]
    try:
        read = msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as problem:
        raise bad_parameter(str(problem)) from problem
    for field in msgspec.structs.fields(kind):
        if field.encode_name in found and getattr(read, field.name) is None:  # msgspec takes the word "null" for nothing
            raise bad_parameter(f"{found[field.encode_name]!r} - at `$.{field.encode_name}`")
    return read


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


async def body(route: Route, caller: Caller) -> Any:
    """What the route reads: a Struct, bytes, or None. Raises `HttpRefused`."""
    if route.raw:
        return await caller.body()
    if route.body is None:
        return None
    data = await caller.body()
    media = caller.headers.get("content-type", "").partition(";")[0].strip().lower()
    if route.octets and media == OCTETS:
        return data
    if data and media != JSON:
        raise bad_media_type(media, (JSON, OCTETS) if route.octets else (JSON,))
    return _json(data or b"{}", route.body)


def _json(data: bytes, kind: type[_S]) -> _S:
    try:
        found = msgspec.json.decode(data, type=kind)
        data.decode()
    except UnicodeDecodeError as problem:
        raise bad_body(f"not UTF-8 at byte {problem.start}") from problem
    except RecursionError as problem:
        raise bad_body("it is nested too deeply") from problem
    except msgspec.DecodeError as problem:
        raise bad_body(str(problem)) from problem
    for field in msgspec.structs.fields(kind):
        if field.type in (JsonObject, MaybeObject):
            _require_object(bytes(getattr(found, field.name)), field.encode_name, field.type is MaybeObject)
    return found


def _require_object(value: bytes, name: str, or_null: bool) -> None:
    if not (value.startswith(b"{") or (or_null and value == NULL)):
        raise bad_body(f"Expected `object` - at `$.{name}`")
