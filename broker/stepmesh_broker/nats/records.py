"""Streams as logs: the newest message of a subject, the one at a position, batches from there on, and a publish that says what it follows.

Invariant: a question is asked again while the connection is lost, no leader serves it or no answer comes, until `patience_s` is over; so a
publish that names nothing that it follows may be stored twice. It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, NamedTuple

import msgspec
from nats.js.api import StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats.connection import Connection
from stepmesh_broker.nats.wire import Answer, Disconnected

_PAUSE_S = 0.05
_ATTEMPT_S = 1.0
"""A leader that died took the question with it: it is asked again."""
_NAME_IN_USE = 10058
_NO_MESSAGE = frozenset({10037, 10043, 10057})
_WRONG_LAST = frozenset({10071, 10164})
_TRANSIENT = 500
_SEQUENCE = b"Nats-Sequence: "
_TIME = b"Nats-Time-Stamp: "
_BEFORE = b"Nats-Last-Sequence: "
"""Of the message that was sent before in the same batch; 0: none was."""
_BATCH_END = (b"NATS/1.0 204", b"NATS/1.0 404", b"NATS/1.0 408", b"NATS/1.0 413")


class Refused(Exception):
    """The server's answer was an error."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} (JetStream error {err_code})")
        self.code = code
        self.err_code = err_code


class NotNext(Exception):
    """The message did not follow the one that it named; it was not stored."""


class Message(NamedTuple):
    """A stored message; `time` is RFC 3339, of the stream's leader when it took the message."""

    sequence: int
    data: bytes
    time: str


class _Error(msgspec.Struct, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Stored(msgspec.Struct, gc=False):
    seq: int = 0
    subject: str = ""
    time: str = ""
    data: str = ""


class _Reply(msgspec.Struct, gc=False):
    seq: int = 0
    error: _Error | None = None
    message: _Stored | None = None


_decode = msgspec.json.Decoder(_Reply).decode
_encode = msgspec.json.Encoder().encode


class StreamRecords:
    """Every call raises `TimeoutError` when no answer comes within `patience_s`, and `Refused`."""

    def __init__(self, connection: Connection, patience_s: float = 10.0) -> None:
        self._connection = connection
        self._patience_s = patience_s

    @property
    def max_message_bytes(self) -> int:
        """What the server takes, headers included."""
        return self._connection.wire.max_payload

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """The stream of that name, made if it is missing."""
        name = config.name or ""
        while True:
            found = await self.find(name)
            if found is not None:
                return found
            try:
                return await self._managed(lambda: self._connection.streams.js.add_stream(config))
            except APIError as problem:
                if problem.err_code != _NAME_IN_USE:  # else another process was quicker
                    raise Refused(problem.code or 0, problem.err_code or 0, problem.description or "") from problem

    async def find(self, stream: str) -> StreamInfo | None:
        """None when there is none of that name."""
        try:
            return await self._managed(lambda: self._connection.streams.js.stream_info(stream))
        except NotFoundError:
            return None

    async def subjects(self, stream: str, pattern: str) -> dict[str, int]:
        """Those that have messages, with how many."""
        info = await self._managed(lambda: self._connection.streams.js.stream_info(stream, subjects_filter=pattern))
        return dict(info.state.subjects or {})

    async def last(self, stream: str, subject: str) -> Message | None:
        """The newest message, as the stream's leader has it."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, subject: str, sequence: int) -> Message | None:
        """The first message at or above a sequence, as the stream's leader has it."""
        return await self._get(stream, {"seq": max(1, sequence), "next_by_subj": subject})

    async def batch(self, stream: str, subject: str, sequence: int, limit: tuple[int, int]) -> list[Message]:
        """Messages from a sequence on, at most so many and about so many bytes; from any replica, which may be behind the leader. They end
        before one that was lost on its way here."""
        found: list[Message] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(_subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
            if headers is None or headers.startswith(_BATCH_END):
                if not done.done():
                    done.set_result(None)
            elif _SEQUENCE in headers and int(_header(headers, _BEFORE)) == (found[-1].sequence if found else 0):
                found.append(Message(int(_header(headers, _SEQUENCE)), data, _header(headers, _TIME).decode()))

        wire = self._connection.wire
        inbox = wire.new_inbox()
        request = _encode({"seq": max(1, sequence), "next_by_subj": subject, "batch": limit[0], "max_bytes": limit[1]})
        sid = wire.hear(inbox, hear)
        try:
            wire.put(b"PUB $JS.API.DIRECT.GET.%b %b %d\r\n%b\r\n" % (stream.encode(), inbox.encode(), len(request), request))
            async with asyncio.timeout(self._patience_s / 4):
                await done
        except TimeoutError:
            if not found:
                raise
        finally:
            wire.unhear(sid)
        return found

    async def publish(self, subject: str, data: bytes, after: int | None) -> int:
        """Its sequence. Raises `NotNext` when the newest message of the subject is not the one at `after` (0: there is none)."""
        headers = b"" if after is None else b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % after
        reply = await self._reply(subject, data, headers)
        if reply.error is None:
            return reply.seq
        if reply.error.err_code in _WRONG_LAST:
            raise NotNext
        raise Refused(reply.error.code, reply.error.err_code, reply.error.description)

    async def purge(self, stream: str, subject: str, below: int) -> None:
        """Remove the messages of a subject below a sequence."""
        await self._api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": below})

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove one message; nothing when it is not there."""
        try:
            await self._api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        except Refused as refused:
            if refused.err_code not in _NO_MESSAGE:
                raise

    async def _get(self, stream: str, request: dict[str, Any]) -> Message | None:
        try:
            stored = (await self._api(f"STREAM.MSG.GET.{stream}", request)).message
        except Refused as refused:
            if refused.err_code in _NO_MESSAGE:
                return None
            raise
        return Message(stored.seq, base64.b64decode(stored.data), stored.time) if stored else None

    async def _api(self, what: str, request: dict[str, Any]) -> _Reply:
        reply = await self._reply(f"$JS.API.{what}", _encode(request), b"")
        if reply.error is not None:
            raise Refused(reply.error.code, reply.error.err_code, reply.error.description)
        return reply

    async def _reply(self, subject: str, data: bytes, headers: bytes) -> _Reply:
        """The first answer that is not for the moment only."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            answer = await self._asked(subject, data, headers, deadline - loop.time())
            if answer is not None and not answer.no_responders:
                reply = _decode(answer.data)
                if reply.error is None or reply.error.code < _TRANSIENT or loop.time() > deadline:
                    return reply
            elif loop.time() > deadline:
                raise TimeoutError(f"no answer on {subject}")
            await asyncio.sleep(_PAUSE_S)

    async def _asked(self, subject: str, data: bytes, headers: bytes, seconds: float) -> Answer | None:
        """None when there is no connection, it was lost meanwhile, or no answer came."""
        try:
            self._connection.check()
            return await self._connection.wire.ask(subject, data, headers, max(min(seconds, _ATTEMPT_S), _PAUSE_S))
        except (Disconnected, BrokerUnavailable, TimeoutError):
            return None

    async def _managed(self, call: Any) -> StreamInfo:
        """A call of nats-py's manager, with the same patience."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            try:
                info: StreamInfo = await self._connection.steady(call)
                return info
            except APIError as problem:
                if (problem.code or _TRANSIENT) < _TRANSIENT or loop.time() > deadline:
                    raise
            except (TimeoutError, BrokerUnavailable, OSError) as problem:
                if loop.time() > deadline:
                    raise TimeoutError(str(problem)) from problem
            await asyncio.sleep(_PAUSE_S)


def _header(headers: bytes, name: bytes) -> bytes:
    begin = headers.index(name) + len(name)
    return headers[begin : headers.index(b"\r", begin)]
