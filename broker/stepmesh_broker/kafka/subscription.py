"""Listeners and responders: `Subscription` of both kinds.

Invariant: a listener's handler hears one message at a time, in order; a responder may work on many requests at once.
It must not know any subject's meaning, nor how messages travel.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.ports import Handler, Responder
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)
BACKLOG = 65_536
"""Messages that may wait for a slow handler; more are dropped (this channel is at most once), and that is logged."""
_S = TypeVar("_S")


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern; an ending `>` stands for one or more further tokens."""
    return subject == pattern or (pattern.endswith(">") and subject.startswith(pattern[:-1]) and len(subject) >= len(pattern))


class KafkaListener:
    """Feeds a handler from a subject."""

    def __init__(self, subject: Subject, handler: Handler, forget: Callable[[KafkaListener], None]) -> None:
        self.subject = subject
        self._handler = handler
        self._forget = forget
        self._backlog: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)
        self._task = asyncio.get_running_loop().create_task(self._feed())

    def hear(self, data: bytes) -> None:
        """A message for the handler."""
        try:
            self._backlog.put_nowait(data)
        except asyncio.QueueFull:
            _log.warning("a listener of %s is too slow; a message was dropped", self.subject)

    async def close(self) -> None:
        """Hear no more; what the handler is doing is cancelled, unless it is the one that closes."""
        self._forget(self)
        if self._task is not asyncio.current_task():
            self._task.cancel()

    async def _feed(self) -> None:
        while True:
            data = await self._backlog.get()
            try:
                await self._handler(data)
            except Exception:
                _log.exception("a listener of %s failed", self.subject)


class KafkaServer:
    """Answers requests, each in a task of its own. A failed responder answers nothing, and that is logged."""

    def __init__(
        self, subject: Subject, responder: Responder, group: str, max_bytes: int, forget: Callable[[KafkaServer], Awaitable[None]]
    ) -> None:
        self.subject = subject
        self.group = group
        self.member = secrets.token_hex(6)
        self._responder = responder
        self._max_bytes = max_bytes
        self._forget = forget
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Take no more requests; running ones go on."""
        await self._forget(self)

    def ask(self, data: bytes, busy: Callable[[], Awaitable[None]], answer: Callable[[bytes], Awaitable[None]], patience_s: float) -> None:
        """Work on a request. `busy` is told when that takes longer than `patience_s`."""
        task = asyncio.get_running_loop().create_task(self._answer(data, busy, answer, patience_s))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(
        self, data: bytes, busy: Callable[[], Awaitable[None]], answer: Callable[[bytes], Awaitable[None]], patience_s: float
    ) -> None:
        working = asyncio.get_running_loop().create_task(self._work(data))
        try:
            await asyncio.wait([working], timeout=patience_s)
            if not working.done():
                await busy()
            reply = await working
            if reply is None:
                await busy()  # heard, and never answered
            else:
                await answer(reply)
        except Exception:
            _log.exception("an answer on %s was not sent", self.subject)
        finally:
            working.cancel()

    async def _work(self, data: bytes) -> bytes | None:
        try:
            reply = await self._responder(data)
            if len(reply) > self._max_bytes:
                raise MessageTooLarge.of(len(reply), self._max_bytes)
        except Exception:
            _log.exception("a responder of %s failed", self.subject)
            return None
        return reply
