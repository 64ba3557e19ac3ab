"""Events of a run as they happen: Server-Sent Events that a reader can take up again where it left.

Invariants: the next page is read only when the last one is written, so a slow reader costs one page; a stream that was cut has no `end`,
and one that ended is not opened again (204), so that a browser's EventSource neither loses events nor comes back for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.api import RunEvent
from stepmesh_gateway.http import event_frames
from stepmesh_gateway.http.caller import Caller
from stepmesh_gateway.http.messages import Uint64
from stepmesh_gateway.http.refusals import bad_parameter, error_response
from stepmesh_gateway.http.registry import EVENT_STREAM, Asked, Route, Scope
from stepmesh_gateway.limits import Streams, TooManyStreams
from stepmesh_gateway.translate.fields import run_id
from stepmesh_gateway.translate.status_events import EventFilter, EventType, behind

log = logging.getLogger("stepmesh.gateway")

Pages = AsyncIterator[Sequence[RunEvent]]
HEARTBEAT_S = 15.0
"""Silence after which a comment says that the stream lives, in seconds."""
PIECE = 64 * 1024
"""Bytes of events that are written at once."""
_TYPES = {name: kind for kind in EventType for name in (str(int(kind)), kind.name, kind.name.lower())}


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`since`: the first `sequenceNumber` that is wanted. `eventTypes`: numbers or names; none for all of them."""

    since: Uint64 | None = None
    event_types: list[str] = []
    include_sub_runs: bool = False
    include_results: bool = False


async def follow_run(asked: Asked[EventsQuery, None]) -> Response:
    """From the beginning, or from where `Last-Event-ID` or `since` say, until the run is over."""
    query, operations = asked.query, asked.operations
    run = run_id(asked.path["runId"], "runId")
    wanted = EventFilter(run=run, types=_types(query.event_types), sub_runs=query.include_sub_runs, results=query.include_results)
    after, resumed = _start(asked)
    over = (await operations.get_run(run)).is_over
    pages = operations.events(run, after)
    if over and resumed:
        first = await anext(pages, None)
        if not first:
            return Response(status_code=204)
        pages = chained(first, pages)

    def frames(page: Sequence[RunEvent]) -> Iterable[bytes]:
        return map(event_frames.frame, wanted.wanted(page))

    return EventStream(asked.caller, operations.streams, pieces(pages, frames, after))


def _start(asked: Asked[EventsQuery, None]) -> tuple[int, bool]:
    """Behind which position to read, and whether that is the way of one who was here before."""
    given = asked.caller.headers.get("last-event-id")
    if not given:
        return behind(asked.query.since), asked.query.since is not None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise bad_parameter(f"Last-Event-ID {given[:40]!r} is not one of this stream")
    return int(given), True


def _types(given: Sequence[str]) -> frozenset[EventType]:
    strange = [name for name in given if name not in _TYPES]
    if strange:
        raise bad_parameter(f"eventTypes has no {strange[0][:40]!r}; there are {', '.join(kind.name.lower() for kind in EventType)}")
    return frozenset(_TYPES[name] for name in given)


async def chained(first: Sequence[RunEvent], rest: Pages) -> Pages:
    """A page that was looked at, and those after it."""
    yield first
    async for page in rest:
        yield page


async def pieces(pages: Pages, frames: Callable[[Sequence[RunEvent]], Iterable[bytes]], position: int) -> AsyncIterator[bytes]:
    """What is written, piece by piece; what comes after a heartbeat is the same page, not yet there."""
    yield event_frames.HELLO
    while True:
        coming = asyncio.ensure_future(_next(pages))
        try:
            while not (await asyncio.wait((coming,), timeout=HEARTBEAT_S))[0]:
                yield event_frames.HEARTBEAT
            page = coming.result()
        finally:
            coming.cancel()
        if page is None:
            yield event_frames.end(position)
            return
        piece = bytearray()
        for frame in frames(page):
            piece += frame
            if len(piece) >= PIECE:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)
        position = page[-1].position if page else position


async def _next(pages: Pages) -> Sequence[RunEvent] | None:
    return await anext(pages, None)


class EventStream(Response):
    """The answer; one of the gateway's streams while it is written."""

    media_type = EVENT_STREAM

    def __init__(self, caller: Caller, streams: Streams, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._caller = caller
        self._streams = streams
        self._pieces = pieces

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Write until the end, or until the reader leaves."""
        try:
            with self._streams.one_more():
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._caller.while_there(self._write(send))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TooManyStreams as problem:
            await error_response(problem)(scope, receive, send)

    async def _write(self, send: Send) -> None:
        try:
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except StepmeshError as problem:  # the reader comes back to where it was, here or at another gateway
            log.info("an event stream is cut: %s", problem)


ROUTES = (
    Route(
        method="GET", path="/api/v1/runs/{runId}/events", scope=Scope.READ, summary="Follow the events of a run", handler=follow_run,
        query=EventsQuery, answer=event_frames.Event, media=(EVENT_STREAM,),
        headers={"Last-Event-ID": "the id of the last event that was seen: go on behind it"},
    ),
)  # fmt: skip
