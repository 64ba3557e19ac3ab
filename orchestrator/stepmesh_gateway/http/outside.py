"""Routes by which runs are told what happened outside: events by address, answers and webhooks by token.

Whoever sends an event again with its id, or the same answer, changes nothing. A hook's answer is the request itself.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated

import msgspec
from starlette.datastructures import QueryParams

from stepmesh_broker.protocol.messages import EventKept
from stepmesh_gateway.http.messages import NULL, Json
from stepmesh_gateway.http.refusals import JSON
from stepmesh_gateway.http.registry import ANY, Asked, NoQuery, Ok, Route, Scope
from stepmesh_gateway.translate.fields import run_id

_HOP = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers that a hook does not pass on: they are for this door."""


class SendEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event for everybody who waits at (`name`, `key`). `id`: one that is known there already changes nothing. `namespace`: of a
    tenant, if not the deployment's own."""

    name: str
    key: str = ""
    data: Json = msgspec.field(default_factory=lambda: Json(NULL))
    id: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    namespace: str | None = None


class EventSent(msgspec.Struct, frozen=True, kw_only=True):
    """It is journaled. `matched`: how many that waited have it now; `buffered`: it is kept for those to come. `existing`: nothing came of
    it, because its id was known."""

    id: str
    matched: int
    buffered: bool
    existing: bool


class SignalQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`id` of the event; `Idempotency-Key` says the same."""

    id: str | None = None


class HookQuery(msgspec.Struct, frozen=True):
    """Whatever there is, it is passed on."""


async def send_event(asked: Asked[NoQuery, SendEvent]) -> EventSent:
    """Kept for those who will wait, too."""
    body = asked.body
    return _sent(await asked.operations.send_event(body.name, body.key, _id(asked, body.id), bytes(body.data), body.namespace))


async def signal_run(asked: Asked[SignalQuery, bytes]) -> EventSent:
    """To the run's own address, where its waits without a key are. The body is the event's data."""
    run = run_id(asked.path["runId"], "runId")
    return _sent(await asked.operations.send_event(asked.path["name"], run, _id(asked, asked.query.id), asked.body or NULL))


async def notify(asked: Asked[SignalQuery, bytes]) -> EventSent:
    """The event with that name and no key. The body is its data."""
    return _sent(await asked.operations.send_event(asked.path["eventId"], "", _id(asked, asked.query.id), asked.body or NULL))


async def resolve_promise(asked: Asked[NoQuery, bytes]) -> Ok:
    """The body is the answer; an approval takes a decision."""
    await asked.operations.settle(asked.path["token"], asked.body or NULL, rejected=False)
    return Ok()


async def reject_promise(asked: Asked[NoQuery, bytes]) -> Ok:
    """The body is the reason."""
    await asked.operations.settle(asked.path["token"], asked.body or NULL, rejected=True)
    return Ok()


async def call_hook(asked: Asked[HookQuery, bytes]) -> Ok:
    """Whatever is sent here is the answer: `{method, headers, query, body}`."""
    await asked.operations.settle(asked.path["token"], _request(asked), rejected=False)
    return Ok()


def _request(asked: Asked[HookQuery, bytes]) -> bytes:
    caller = asked.caller
    headers = {name: value for name, value in caller.headers.items() if name not in _HOP}
    query = dict(QueryParams(caller.query).items())
    return msgspec.json.encode({"method": caller.method, "headers": headers, "query": query, "body": _content(asked)})


def _content(asked: Asked[HookQuery, bytes]) -> object:
    """JSON as it is, other text as text, anything else in base64."""
    media = asked.caller.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if not asked.body:
            return None
        text = asked.body.decode()
        return msgspec.json.decode(asked.body, type=msgspec.Raw) if media == JSON or media.endswith("+json") else text
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return {"base64": b64encode(asked.body).decode()}


def _id(asked: Asked[object, object], given: str | None) -> str | None:
    return given or asked.caller.headers.get("idempotency-key")


def _sent(kept: EventKept) -> EventSent:
    return EventSent(id=kept.id, matched=kept.matched, buffered=not kept.matched and not kept.existing, existing=kept.existing)


_AGAIN = {"Idempotency-Key": "id of the event: one that is known at its address changes nothing"}
ROUTES = (
    Route(
        method="POST", path="/v1/events", scope=Scope.RUN, summary="Send an event", handler=send_event, body=SendEvent,
        answer=EventSent, status=202, headers=_AGAIN,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/signals/{name}", scope=Scope.RUN, summary="Send an event to a run", handler=signal_run,
        query=SignalQuery, raw=JSON, answer=EventSent, status=202, headers=_AGAIN,
    ),
    Route(
        method="POST", path="/notify/{eventId}", scope=Scope.RUN, summary="Send an event by its name alone", handler=notify,
        query=SignalQuery, raw=JSON, answer=EventSent, status=202, headers=_AGAIN,
    ),
    Route(
        method="POST", path="/v1/promises/{token}/resolve", scope=Scope.RUN, summary="Answer what a step waits for",
        handler=resolve_promise, raw=JSON, answer=Ok,
    ),
    Route(
        method="POST", path="/v1/promises/{token}/reject", scope=Scope.RUN, summary="Reject what a step waits for",
        handler=reject_promise, raw=JSON, answer=Ok,
    ),
    *(
        Route(
            method=method, path="/v1/hooks/{token}", scope=Scope.RUN, summary="Answer what a step waits for with this request",
            handler=call_hook, query=HookQuery, raw=ANY, answer=Ok,
        )
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ),
)  # fmt: skip
