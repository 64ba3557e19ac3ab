"""A nats-py client whose incoming messages may go straight to a function, and which sends without a Task or queue per message.

nats-py gives every subscription a queue and a task; on the paths that carry frames that is most of the cost. This subclass
overrides one inner method (`_process_msg`) and keeps everything else: connecting, TLS, credentials, parsing, reconnecting.
Invariant: a question (`ask`) is answered, or fails with `Disconnected`; it never hangs over a reconnect.
It must not know JetStream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import ConnectionReconnectingError, Error

_log = logging.getLogger(__name__)

OnMessage = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Gets subject, reply subject, payload and raw headers (None without)."""


class Disconnected(Exception):
    """The connection was lost before the answer came."""


class Answer(NamedTuple):
    """What came back: payload and raw headers (None without)."""

    data: bytes
    headers: bytes | None

    @property
    def no_responders(self) -> bool:
        """Nobody listened to the question."""
        return self.headers is not None and self.headers.startswith(b"NATS/1.0 503")


class Wire(Client):
    """`connect` as of nats-py; then `hear`, `put`, `ask`."""

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[int, OnMessage] = {}
        self._answers: dict[bytes, asyncio.Future[Answer]] = {}
        self._answer_prefix = b""
        self._questions = 0

    def hear(self, subject: str, on_message: OnMessage, group: str = "") -> int:
        """Subscribe at once; again after every reconnect. Members of a `group` share. Returns the number for `unhear`."""
        self._sid += 1
        self._direct[self._sid] = on_message
        self._subs[self._sid] = Subscription(self, self._sid, subject, queue=group)
        self.put(f"SUB {subject} {group} {self._sid}\r\n".encode())
        return self._sid

    def unhear(self, sid: int, linger_s: float = 1.0) -> None:
        """End a subscription. What is already on its way is still heard for `linger_s` seconds."""
        if self._subs.pop(sid, None) is not None:
            self.put(b"UNSUB %d\r\n" % sid)
            asyncio.get_running_loop().call_later(linger_s, self._direct.pop, sid, None)

    def put(self, command: bytes) -> None:
        """Send protocol bytes with the next flush: that is in the next turn of the loop, with all others of this turn."""
        self._pending.append(command)
        self._pending_data_size += len(command)
        queue = self._flush_queue
        if queue is not None and queue.empty() and self.is_connected:
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def room(self) -> None:
        """Wait for a flush while more than nats-py's `pending_size` is unsent."""
        if self._pending_data_size > self._max_pending_size and self._flush_queue is not None:
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            await self._flush_queue.put(flushed)
            await flushed

    async def ask(self, subject: str, data: bytes, headers: bytes, timeout_s: float) -> Answer:
        """Publish with a reply subject and wait for the first answer. Raises `Disconnected` or `TimeoutError`."""
        if not self._answer_prefix:
            self._answer_prefix = f"{self.new_inbox()}.".encode()
            self.hear(f"{self._answer_prefix.decode()}*", self._answered)
        self._questions += 1
        token = b"%d" % self._questions
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[token] = future
        self.put(published(subject, data, (self._answer_prefix + token).decode(), headers))
        try:
            async with asyncio.timeout(timeout_s):
                await self.room()
                return await future
        finally:
            self._answers.pop(token, None)

    async def close(self) -> None:
        """Disconnect for good. What a lost connection still held is dropped: nats-py would write it to the closed transport."""
        if not self.is_connected:
            self.forget()
        try:
            await super().close()
        except (OSError, RuntimeError) as problem:  # lost just now, before nats-py could see it; uvloop raises RuntimeError
            _log.info("the connection was lost while it was closed: %s", problem)

    def forget(self) -> None:
        """After a disconnect: fail open questions and drop what was never sent."""
        self._pending.clear()
        self._pending_data_size = 0
        while self._flush_queue is not None and not self._flush_queue.empty():
            waiting = self._flush_queue.get_nowait()
            if not waiting.done():
                waiting.set_result(None)
        answers, self._answers = self._answers, {}
        for future in answers.values():
            if not future.done():
                future.set_exception(Disconnected())
        for request in list(self._resp_map.values()):  # nats-py's own, which would wait for their timeout
            if not request.done():
                request.set_exception(ConnectionReconnectingError())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        on_message = self._direct.get(sid)
        if on_message is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            on_message(subject, reply, data, headers)
        except Exception:
            _log.exception("a message on %s could not be handled", subject)

    async def _process_err(self, err_msg: str) -> None:
        """Any -ERR but a permission one leads to a reconnect; nats-py would close for ever."""
        self._err = Error(f"nats: {err_msg}")
        if "permissions violation" in err_msg:
            await self._error_cb(self._err)
        else:
            await self._process_op_err(self._err)

    def _answered(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
        future = self._answers.pop(subject[len(self._answer_prefix) :], None)
        if future is not None and not future.done():
            future.set_result(Answer(data, headers))


def published(subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> bytes:
    """The bytes of a PUB, or of an HPUB when there are `headers` (lines that end with CR LF)."""
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
    size = len(headers) + 12
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject.encode(), reply.encode(), size, size + len(data), headers, data)
