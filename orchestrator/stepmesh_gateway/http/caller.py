"""The other end of a request: what it sends, and whether it is still there.

A wait ends with the caller that waits; what it waited for goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from stepmesh_gateway.http.refusals import bad_parameter, too_slow
from stepmesh_gateway.limits import check_size
from stepmesh_gateway.settings import Limits

_T = TypeVar("_T")


class Caller:
    """Of one request."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self.headers = Headers(scope=scope)
        self.method: str = scope["method"]
        self.query: bytes = scope["query_string"]
        self._receive = receive
        self._limits = limits

    async def body(self) -> bytes:
        """All of it. Raises `OverLimit`, `HttpRefused` when it is too slow, `ConnectionError` when the caller leaves before its end."""
        limit = self._limits.message_bytes
        check_size("the body", self._announced(), limit, "message_bytes")
        try:
            async with asyncio.timeout(self._limits.arrival_s):
                return await self._read(limit)
        except TimeoutError:
            raise too_slow("body", self._limits.arrival_s) from None

    def _announced(self) -> int:
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise bad_parameter("Content-Length is not a number")
        return int(length)

    async def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the caller left")
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            check_size("the body, so far,", size, limit, "message_bytes")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def while_there(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """The result of `work`; None if the caller left before. Call it after the body was read."""
        task, left = asyncio.ensure_future(work), asyncio.ensure_future(self._left())
        try:
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, left):
                one.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
