"""A nats-py client whose incoming messages may go straight to a function, and which sends without a Task or queue per message.

nats-py gives every subscription a queue and a task; on the paths that carry frames that is most of the cost. This subclass
overrides one inner method (`_process_msg`) and keeps everything else: connecting, TLS, credentials, parsing, reconnecting.
Invariant: a question (`ask`, and `request`, by which nats-py asks JetStream) is answered, or fails with `Disconnected`, or because
it is forbidden; it never hangs over a reconnect. What should go over TLS is never sent without. It must not know JetStream.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionReconnectingError, Error, NoRespondersError

from stepmesh_broker.errors import BrokerError

_log = logging.getLogger(__name__)

OnMessage = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Gets subject, reply subject, payload and raw headers (None without)."""
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')
_MAX_DENIED = 1000
_CLOSE_S = 3.0


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
        self._answers: dict[bytes, tuple[str, asyncio.Future[Answer]]] = {}
        self._answer_prefix = b""
        self._denied: set[str] = set()
        self._questions = 0
        self._is_over = False

    @property
    def in_cluster(self) -> bool:
        """Whether the server is one of several (known once connected)."""
        return bool(self._server_info.get("cluster"))

    @property
    def release(self) -> str:
        """The server's version, as it says (known once connected)."""
        return str(self._server_info.get("version", ""))

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
        """Publish with a reply subject and wait for the first answer. Raises `Disconnected`, `TimeoutError`, or `BrokerError` SM-3041."""
        if not self._answer_prefix:
            self._answer_prefix = f"{self.new_inbox()}.".encode()
            self.hear(f"{self._answer_prefix.decode()}*", self._answered)
        self._questions += 1
        token = b"%d" % self._questions
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[token] = (subject.lower(), future)
        self.put(published(subject, data, (self._answer_prefix + token).decode(), headers))
        try:
            async with asyncio.timeout(timeout_s):
                await self.room()
                return await future
        finally:
            self._answers.pop(token, None)

    async def request(
        self, subject: str, payload: bytes = b"", timeout: float = 0.5, old_style: bool = False, headers: dict[str, Any] | None = None
    ) -> Msg:
        """As of nats-py, by `ask`."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        try:
            answer = await self.ask(subject, payload, lines.encode(), timeout)
        except Disconnected as problem:
            raise ConnectionReconnectingError from problem
        if answer.no_responders:
            raise NoRespondersError
        return Msg(self, subject, data=answer.data)

    def require_heard(self, subject: str) -> None:
        """After a flush: raises `BrokerError` SM-3041 when the server refused the subscription."""
        if subject.lower() in self._denied:
            raise _denied("subscribe to", subject)

    async def close(self) -> None:
        """Disconnect for good. What a lost connection still held is dropped: nats-py would write it to the closed transport. And it
        waits for ever for the end of a connection whose TLS handshake was given up."""
        self._is_over = True
        if not self.is_connected:
            self.forget()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await super().close()
        except (OSError, RuntimeError) as problem:  # lost just now, before nats-py could see it; uvloop raises RuntimeError
            _log.info("the connection was lost while it was closed: %s", problem)
        finally:
            self._hang_up()  # nats-py got no further when its last words could not be sent in time

    async def _connect_to_server(self, s: Any) -> None:
        """nats-py leaves a connection open whose greeting failed, and connects once more after `close` when its cancellation was lost."""
        self._hang_up()
        if not self._is_over:
            await super()._connect_to_server(s)
        if self._is_over:
            self._hang_up()
            raise asyncio.CancelledError

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]  # nats-py gives it no types

    def forget(self) -> None:
        """After a disconnect: fail open questions and drop what was never sent."""
        self._pending.clear()
        self._pending_data_size = 0
        while self._flush_queue is not None and not self._flush_queue.empty():
            waiting = self._flush_queue.get_nowait()
            if not waiting.done():
                waiting.set_result(None)
        answers, self._answers = self._answers, {}
        self._denied.clear()
        for _, future in answers.values():
            if not future.done():
                future.set_exception(Disconnected())

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """nats-py writes the question past what waits to be sent; the answer would tell nothing about that."""
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending.clear()
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        """An answer to a flush that was given up, because it took too long or its caller was cancelled: nats-py would fail on it and read
        nothing any more, until its own pings showed that 20 to 30 s later."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

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
            self._forbidden(err_msg)
            await self._error_cb(self._err)
        else:
            await self._process_op_err(self._err)

    def _forbidden(self, err_msg: str) -> None:
        """The server names the subject; nats-py gives it in lower case."""
        found = _DENIED.search(err_msg)
        if found is None:
            return
        if found[1] == "subscription" and len(self._denied) < _MAX_DENIED:
            self._denied.add(found[2])
        for subject, future in self._answers.values():
            if found[1] == "publish" and subject == found[2] and not future.done():
                future.set_exception(_denied("publish to", subject))

    def _connect_command(self) -> bytes:
        """The first words with a password in them; nats-py would say them to a server that offers no TLS."""
        if self.options.get("tls") is not None and not self._server_info.get("tls_required"):
            raise Error("nats: the server offers no TLS, and TLS is wanted")
        return super()._connect_command()

    def _answered(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
        _, future = self._answers.pop(subject[len(self._answer_prefix) :], ("", None))
        if future is not None and not future.done():
            future.set_result(Answer(data, headers))


def _denied(what: str, subject: str) -> BrokerError:
    return BrokerError(
        f"this user may not {what} {subject}", code="SM-3041", hint="give the user of the broker the permissions of its role: infra/nats"
    )


def published(subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> bytes:
    """The bytes of a PUB, or of an HPUB when there are `headers` (lines that end with CR LF)."""
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
    size = len(headers) + 12
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject.encode(), reply.encode(), size, size + len(data), headers, data)
