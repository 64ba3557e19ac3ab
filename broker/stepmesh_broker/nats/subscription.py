"""Listeners and responders on core NATS subjects: `Subscription` of both kinds.

Invariant: a listener's handler hears one message at a time, in order; a responder may work on many requests at once.
It must not know any subject's meaning.
"""

from __future__ import annotations

import asyncio

from stepmesh_broker.listening import Listener, answer_of
from stepmesh_broker.nats.wire import Wire, published
from stepmesh_broker.ports import Handler, Responder


class NatsListener(Listener):
    """Feeds a handler from a subject of the server."""

    def __init__(self, wire: Wire, subject: str, handler: Handler) -> None:
        super().__init__(subject, handler, lambda _: wire.unhear(self._sid))
        self._sid = wire.hear(subject, lambda _subject, _reply, data, _headers: self.hear(data))


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
        answer = await answer_of(self._responder, self._subject, data, self._max_bytes)
        if answer is not None and reply:
            self._wire.put(published(reply, answer))
