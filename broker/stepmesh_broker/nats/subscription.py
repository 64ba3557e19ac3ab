"""Listeners and responders on core NATS subjects: `Subscription` of both kinds.

Invariant: a listener's handler hears one message at a time, in order; a responder may work on many requests at once.
It must not know any subject's meaning.
"""

from __future__ import annotations

import asyncio
import logging

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.nats.wire import Wire, published
from stepmesh_broker.ports import Handler, Responder

_log = logging.getLogger(__name__)
BACKLOG = 65_536
"""Messages that may wait for a slow handler; more are dropped (this channel is at most once), and that is logged."""


class NatsListener:
    """Feeds a handler from a subject."""

    def __init__(self, wire: Wire, subject: str, handler: Handler) -> None:
        self._wire = wire
        self._subject = subject
        self._handler = handler
        self._backlog: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)
        self._sid = wire.hear(subject, self._heard)
        self._task = asyncio.get_running_loop().create_task(self._feed())

    async def close(self) -> None:
        """Hear no more; what the handler is doing is cancelled, unless it is the one that closes."""
        self._wire.unhear(self._sid)
        if self._task is not asyncio.current_task():
            self._task.cancel()

    def _heard(self, _subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        try:
            self._backlog.put_nowait(data)
        except asyncio.QueueFull:
            _log.warning("a listener of %s is too slow; a message was dropped", self._subject)

    async def _feed(self) -> None:
        while True:
            data = await self._backlog.get()
            try:
                await self._handler(data)
            except Exception:
                _log.exception("a listener of %s failed", self._subject)


class NatsServer:
    """Answers requests, each in a task of its own. A failed responder answers nothing, and that is logged."""

    def __init__(self, wire: Wire, subject: str, responder: Responder, group: str, max_bytes: int) -> None:
        self._wire = wire
        self._subject = subject
        self._responder = responder
        self._max_bytes = max_bytes
        self._running: set[asyncio.Task[None]] = set()
        self._sid = wire.hear(subject, self._asked, group)

    async def close(self) -> None:
        """Take no more requests; running ones go on."""
        self._wire.unhear(self._sid)

    def _asked(self, _subject: bytes, reply: bytes, data: bytes, _headers: bytes | None) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reply.decode(), data))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, reply: str, data: bytes) -> None:
        try:
            answer = await self._responder(data)
            if len(answer) > self._max_bytes:
                raise MessageTooLarge.of(len(answer), self._max_bytes)
        except Exception:
            _log.exception("a responder of %s failed", self._subject)
            return
        if reply:
            self._wire.put(published(reply, answer))
