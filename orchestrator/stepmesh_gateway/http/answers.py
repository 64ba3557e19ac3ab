"""Answers that are written while they are read: a list of any length passes through in pieces, so that it is never in memory whole.

What fails before the first piece has its own status; later the connection is cut, so that nobody takes half a list for a whole one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec
from starlette.responses import Response, StreamingResponse

from stepmesh_gateway.http.refusals import JSON

_T = TypeVar("_T")
PIECE = 64 * 1024
"""Bytes that are written at once."""


def json(value: msgspec.Struct, status: int = 200) -> Response:
    """A body that is there as a whole."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)


async def listing(before: bytes, name: str, entries: AsyncIterator[_T], view: Callable[[_T], msgspec.Struct]) -> Response:
    """`{…before, name: [entries]}`. `before`: members of the object, JSON text without braces. Raises what the first entries raise."""
    head = b'{%s%s"%s":[' % (before, b"," if before else b"", name.encode())
    pieces = _pieces(head, entries, view)
    first = await anext(pieces)
    second = await anext(pieces, None)
    if second is None:
        return Response(first, media_type=JSON)
    return StreamingResponse(_joined(first, second, pieces), media_type=JSON)


async def _joined(first: bytes, second: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for piece in rest:
        yield piece


async def _pieces(head: bytes, entries: AsyncIterator[_T], view: Callable[[_T], msgspec.Struct]) -> AsyncIterator[bytes]:
    piece = bytearray(head)
    comma = b""
    async for entry in entries:
        piece += comma
        piece += msgspec.json.encode(view(entry))
        comma = b","
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    piece += b"]}"
    yield bytes(piece)
