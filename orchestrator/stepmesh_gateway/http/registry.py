"""What a route is: everything that the door, the OpenAPI document and the tests need to know of it, in one value.

Default deny: a path that no route names is 404, a method that none takes is 405, and there is no route without a scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec
from starlette.responses import Response

from stepmesh_gateway.http.caller import Caller
from stepmesh_gateway.http.messages import Empty
from stepmesh_gateway.operations import Operations

Q_co = TypeVar("Q_co", covariant=True)
B_co = TypeVar("B_co", covariant=True)
OCTETS = "application/octet-stream"
EVENT_STREAM = "text/event-stream"
ANY = "*/*"


class Scope(Enum):
    """What a caller must be allowed in order to use a route."""

    PUBLIC = "public"
    READ = "read"
    RUN = "run"
    DEPLOY = "deploy"


@dataclass(frozen=True, slots=True)
class Asked(Generic[Q_co, B_co]):
    """One request as its handler sees it: `path` has the parameters of the path, by name, `query` and `body` are checked."""

    operations: Operations
    caller: Caller
    path: Mapping[str, str]
    query: Q_co
    body: B_co


Answer = msgspec.Struct | Response
Handler = Callable[[Asked[Any, Any]], Awaitable[Answer]]


class NoQuery(msgspec.Struct, frozen=True):
    """No parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`path`: `{name}` is one segment, `{name:path}` the rest. `body`: of JSON; a missing one counts as `{}`. `octets`: the body may also
    be bytes, which the handler gets as they are. `raw`: media type of a body that the handler gets as it is, whatever the caller says of
    it. `headers`: those that it reads, with what they mean. `media`: types of the answer; `status`: of success."""

    method: str
    path: str
    scope: Scope
    summary: str
    handler: Handler
    answer: type[msgspec.Struct]
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    octets: bool = False
    raw: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    media: tuple[str, ...] = ("application/json",)
    status: int = 200


class Ok(Empty, frozen=True, kw_only=True):
    """Done."""
