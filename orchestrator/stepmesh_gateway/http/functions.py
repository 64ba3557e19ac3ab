"""Routes that ask the durable function of a run, and follow what it writes to its streams.

An update that is sent again with its id is the same update; a stream goes on behind the last value that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from starlette.responses import Response

from stepmesh.run_asking import cursor, written
from stepmesh.uuid7 import new_run_id
from stepmesh_broker.protocol.api import RunEvent
from stepmesh_broker.protocol.messages import AskUpdate
from stepmesh_broker.protocol.queries import AskQuery
from stepmesh_gateway.http.events import EventStream, chained, pieces
from stepmesh_gateway.http.messages import Json, Uint32
from stepmesh_gateway.http.refusals import JSON
from stepmesh_gateway.http.registry import EVENT_STREAM, Asked, Route, Scope
from stepmesh_gateway.translate.fields import run_id

WAIT_S = 30
"""How long a reply is waited for unless another time is asked for, in seconds."""
Seconds = Annotated[int, msgspec.Meta(ge=1, le=60)]


class UpdateQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`id` of the update; `Idempotency-Key` says the same. `item`, `step`: whose, where the run has several. `timeout`: seconds."""

    id: str | None = None
    item: Uint32 | None = None
    step: str | None = None
    timeout: Seconds = WAIT_S


class Replied(msgspec.Struct, frozen=True, kw_only=True):
    """What the function replied."""

    id: str
    value: Json


class QueryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`item`, `step`: whose function, where the run has several."""

    item: Uint32 | None = None
    step: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the function says."""

    value: Json


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`after`: id of the last value that was seen; `Last-Event-ID` says the same."""

    after: str = ""


class StreamValue(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of a value. `item`: whose function wrote it."""

    value: Json
    item: Uint32


async def update_run(asked: Asked[UpdateQuery, bytes]) -> Replied:
    """Journaled once, however often it is sent with its id. The body is the arguments."""
    query = asked.query
    id = query.id or asked.caller.headers.get("idempotency-key") or new_run_id()
    run = run_id(asked.path["runId"], "runId")
    update = AskUpdate(run, id, asked.path["name"], asked.body or b"{}", query.item, query.step)
    return Replied(id=id, value=Json(await asked.operations.update(update, query.timeout)))


async def query_run(asked: Asked[QueryQuery, bytes | None]) -> Told:
    """How it stands; nothing is recorded."""
    run = run_id(asked.path["runId"], "runId")
    question = AskQuery(run, asked.path["name"], asked.body or b"{}", asked.query.item, asked.query.step)
    return Told(value=Json(await asked.operations.query(question)))


async def query_run_with(asked: Asked[QueryQuery, bytes]) -> Told:
    """The same with arguments: the body."""
    return await query_run(asked)


async def follow_stream(asked: Asked[StreamQuery, None]) -> Response:
    """What the run writes to the stream, until the run is over."""
    operations, run, name = asked.operations, run_id(asked.path["runId"], "runId"), asked.path["name"]
    given = asked.caller.headers.get("last-event-id") or asked.query.after
    place = position, index = cursor(given)
    over = (await operations.get_run(run)).is_over
    pages = operations.events(run, position - 1 if index else position)
    if over and given:
        first = await anext(pages, None)
        if not first:
            return Response(status_code=204)
        pages = chained(first, pages)

    def frames(page: Sequence[RunEvent]) -> Iterable[bytes]:
        values = (value for event in page for value in written(event, run, name))
        for value in values:
            if cursor(value.cursor) > place:
                yield _frame(value.cursor, StreamValue(value=Json(value.data), item=value.item))

    return EventStream(asked.caller, operations.streams, pieces(pages, frames, position))


def _frame(place: str, value: StreamValue) -> bytes:
    data = b"\ndata: ".join(msgspec.json.encode(value).splitlines())
    return b"id: %b\nevent: value\ndata: %b\n\n" % (place.encode(), data)


ROUTES = (
    Route(
        method="POST", path="/v1/runs/{runId}/updates/{name}", scope=Scope.RUN, summary="Ask a durable function for a change",
        handler=update_run, query=UpdateQuery, raw=JSON, answer=Replied,
        headers={"Idempotency-Key": "id of the update: the same one is the same update"},
    ),
    Route(
        method="GET", path="/v1/runs/{runId}/queries/{name}", scope=Scope.READ, summary="Ask a durable function how it stands",
        handler=query_run, query=QueryQuery, answer=Told,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/queries/{name}", scope=Scope.RUN, summary="Ask a durable function with arguments",
        handler=query_run_with, query=QueryQuery, raw=JSON, answer=Told,
    ),
    Route(
        method="GET", path="/v1/runs/{runId}/streams/{name}", scope=Scope.READ, summary="Follow a stream of a run",
        handler=follow_stream, query=StreamQuery, answer=StreamValue, media=(EVENT_STREAM,),
        headers={"Last-Event-ID": "the id of the last value that was seen: go on behind it"},
    ),
)  # fmt: skip
