"""Responders: `Subscription` of requests.

Invariant: a responder may work on many requests at once, and each of them is answered, or told to be under way.
It must not know any subject's meaning, nor how messages travel.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from stepmesh_broker.listening import answer_of
from stepmesh_broker.ports import Responder
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)


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
        working = asyncio.get_running_loop().create_task(answer_of(self._responder, self.subject, data, self._max_bytes))
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
