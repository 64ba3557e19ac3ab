"""Hearing and answering, as every backend does it: which messages fall under a pattern, what feeds a handler, what a responder's answer is.

Invariant: a listener's handler hears one message at a time, in order. It must not know any subject's meaning, nor how messages travel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.ports import Handler, Responder

_log = logging.getLogger(__name__)
BACKLOG = 65_536
"""Messages that may wait for a slow handler; more are dropped (this channel is at most once), and that is logged."""


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern; an ending `>` stands for one or more further tokens."""
    return subject == pattern or (pattern.endswith(">") and subject.startswith(pattern[:-1]) and len(subject) >= len(pattern))


class Listener:
    """Feeds a handler from a subject, in a task of its own. `forget` is told when it hears no more."""

    def __init__(self, subject: str, handler: Handler, forget: Callable[[Listener], None]) -> None:
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


async def answer_of(responder: Responder, subject: str, data: bytes, max_bytes: int) -> bytes | None:
    """What a responder answers. None when it failed, or its answer is too large: then nothing is answered, and that is logged."""
    try:
        answer = await responder(data)
        if len(answer) > max_bytes:
            raise MessageTooLarge.of(len(answer), max_bytes)
    except Exception:
        _log.exception("a responder of %s failed", subject)
        return None
    return answer
