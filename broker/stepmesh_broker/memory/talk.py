"""Messages to whoever listens now: fan-out to listeners, requests to one responder. Nothing is kept.

Invariant: a listener hears the messages of one sender in order, one at a time. It must not know any subject's meaning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.ports import Handler, Responder
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern; an ending `>` stands for one or more further tokens."""
    return subject == pattern or (pattern.endswith(">") and subject.startswith(pattern[:-1]) and len(subject) >= len(pattern))


class Listener:
    """A subscription; also a task that feeds its handler in order while there is something to hear."""

    def __init__(self, subject: Subject, handler: Handler, forget: Callable[[Listener], None]) -> None:
        self.subject = subject
        self._handler = handler
        self._forget = forget
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._feed())

    def hear(self, data: bytes) -> None:
        """Queue a message for the handler."""
        self._heard.put_nowait(data)

    async def close(self) -> None:
        """Hear no more; what the handler is doing is cancelled, unless it is the one that closes."""
        self._forget(self)
        if self._task is not asyncio.current_task():
            self._task.cancel()

    async def _feed(self) -> None:
        while True:
            data = await self._heard.get()
            try:
                await self._handler(data)
            except Exception:
                _log.exception("a listener of %s failed", self.subject)


class Server:
    """A subscription that answers requests, each in a task of its own."""

    def __init__(self, subject: Subject, responder: Responder, group: str, max_bytes: int, forget: Callable[[Server], None]) -> None:
        self.subject = subject
        self.group = group
        self._responder = responder
        self._max_bytes = max_bytes
        self._forget = forget
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, data: bytes, answer: asyncio.Future[bytes | None]) -> None:
        """Start to work on a request; a failed responder answers nothing."""
        self._start(self._answer(data, answer))

    async def close(self) -> None:
        """Take no more requests; running ones go on."""
        self._forget(self)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, data: bytes, answer: asyncio.Future[bytes | None]) -> None:
        try:
            reply = await self._responder(data)
            if len(reply) > self._max_bytes:
                raise MessageTooLarge.of(len(reply), self._max_bytes)
        except Exception:
            _log.exception("a responder of %s failed", self.subject)
            return
        if not answer.done():
            answer.set_result(reply)
