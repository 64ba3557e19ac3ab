"""A standing pull request on a JetStream consumer, so that a message reaches an idle reader with no further round trip.

Invariant: `outstanding` is never below what the server may still send for requests that were not given back, and a request that
the server forgot (in a cluster its node may go without a word) is noticed by its silence. It must not know what the messages are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial

from stepmesh_broker.nats.wire import Wire, published

EXPIRES_S = 30.0
"""How long the server keeps a request; then it says so and the next `want` makes a new one."""
HEARTBEAT_S = 1.0
"""So often the server says that it has the request, while there is nothing to deliver."""
SILENCE_S = 3.0
_PENDING = re.compile(rb"Nats-Pending-Messages: (\d+)")
_LAST_SENT = re.compile(rb"Nats-Last-Consumer: (\d+)")

OnFrame = Callable[[bytes, bytes, bytes | None], None]
"""Gets the acknowledgement subject, the payload and raw headers (None without)."""


class StandingPull:
    """Requests to one consumer. `wake` is called when there is reason to look again: a request ended, or the consumer is gone."""

    def __init__(self, wire: Wire, stream: str, consumer: str, on_frame: OnFrame, wake: Callable[[], None]) -> None:
        self._wire = wire
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._on_frame = on_frame
        self._wake = wake
        self._silent_at = 0.0
        self._sid = 0
        self._reply = ""
        self._round = 0
        self.outstanding = 0
        self.gone = False
        self.last_sent = 0
        """How many messages the consumer had sent, as of its last heartbeat."""

    @property
    def silence_in(self) -> float:
        """Seconds until an open request counts as forgotten."""
        return max(0.0, self._silent_at - asyncio.get_running_loop().time()) if self.outstanding else EXPIRES_S

    def want(self, messages: int) -> None:
        """See to it that about `messages` are requested: asks for the rest when less than half of it is, gives back when more is."""
        if self.outstanding > messages or not self.silence_in:
            self.give_back()
        if self.outstanding * 2 < messages:
            self._ask(messages - self.outstanding)

    def give_back(self) -> None:
        """Ask for nothing: the server drops a request when its reply subject is no longer heard. Late messages still arrive."""
        if self._sid:
            self._wire.unhear(self._sid)
        self._sid = self.outstanding = 0

    def lost(self) -> None:
        """The connection is gone, and all requests with it."""
        self.outstanding = 0

    def _ask(self, batch: int) -> None:
        if not self._sid:
            self._reply = self._wire.new_inbox()
            self._round += 1
            self._sid = self._wire.hear(self._reply, partial(self._heard, self._round))
        self.outstanding += batch
        self._alive()
        request = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (batch, EXPIRES_S * 1e9, HEARTBEAT_S * 1e9)
        self._wire.put(published(self._next, request, self._reply))

    def _heard(self, asked: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        current = asked == self._round and bool(self._sid)  # a message's subject is its stream's, not that of the request
        if current:
            self._alive()
        if headers is not None and headers[8:9] == b" ":
            if current:
                self._status(headers)
            return
        if current and self.outstanding:
            self.outstanding -= 1
        self._on_frame(reply, data, headers)

    def _alive(self) -> None:
        self._silent_at = asyncio.get_running_loop().time() + SILENCE_S

    def _status(self, headers: bytes) -> None:
        if headers[9:12] == b"100":
            sent = _LAST_SENT.search(headers)
            self.last_sent = max(self.last_sent, int(sent[1]) if sent else 0)
            self._wake()
            return
        unfilled = _PENDING.search(headers)
        self.outstanding = max(0, self.outstanding - int(unfilled[1])) if unfilled else 0
        self.gone = self.gone or headers[9:12] == b"503" or b"Consumer Deleted" in headers
        self._wake()


async def heard(news: asyncio.Event, timeout_s: float) -> None:
    """Wait for news, at most `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await news.wait()
    except TimeoutError:
        return
