"""Requests to one responder. Nothing is kept. It must not know any subject's meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from stepmesh_broker.listening import answer_of
from stepmesh_broker.ports import Responder
from stepmesh_broker.protocol.subjects import Subject


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
        reply = await answer_of(self._responder, self.subject, data, self._max_bytes)
        if reply is not None and not answer.done():
            answer.set_result(reply)
