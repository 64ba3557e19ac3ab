"""A pool's frames from JetStream: `TaskSource` and `Delivery`.

Invariant: a frame that this side received is handed to the caller or given back; it is never silently kept. Acknowledgements
go only to the server life that delivered the frame, since another life counts its messages anew.
It must not know what a frame holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats.pull import StandingPull, heard
from stepmesh_broker.nats.wire import Wire, published

HOLD_S = 0.1
"""A consumer that does not fetch for so long gives its standing request, and what it already got by it, back to the others."""
_RETRY_S = 0.1


class Life:
    """One life of the task stream as one connection sees it. `reachable`: acknowledgements may be sent."""

    __slots__ = ("reachable",)

    def __init__(self) -> None:
        self.reachable = True


class NatsDelivery:
    """`Delivery`: acknowledgements are sent, not waited for; without a connection they are dropped and the frame comes again."""

    __slots__ = ("_life", "_reply", "_wire", "data")

    def __init__(self, wire: Wire, life: Life, reply: bytes, data: bytes) -> None:
        self._wire = wire
        self._life = life
        self._reply = reply
        self.data = data

    @property
    def deliveries(self) -> int:
        """From the acknowledgement subject: `$JS.ACK.<stream>.<consumer>.<deliveries>…`, with two more tokens in newer forms."""
        tokens = self._reply.split(b".")
        return int(tokens[4 if len(tokens) == 9 else 6])

    @property
    def is_current(self) -> bool:
        """Whether the server still knows this delivery."""
        return self._life.reachable

    async def ack(self) -> None:
        """Done."""
        self._say(b"")

    async def in_progress(self) -> None:
        """Restart the ack wait."""
        self._say(b"+WPI")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Hand back."""
        self._say(b'-NAK {"delay": %d}' % (delay_s * 1e9) if delay_s > 0 else b"-NAK")

    def give_back(self) -> None:
        """`nak` at once."""
        self._say(b"-NAK")

    def _say(self, what: bytes) -> None:
        if self._life.reachable:
            self._wire.put(published(self._reply.decode(), what))


class NatsTaskSource:
    """`TaskSource` over a durable pull consumer. `join` makes the consumer; `life` names the present life."""

    def __init__(self, wire: Wire, stream: str, consumer: str, join: Callable[[], Awaitable[None]], life: Callable[[], Life]) -> None:
        self._wire = wire
        self._join = join
        self._life = life
        self._pull = StandingPull(wire, stream, consumer, self._arrived, self._wake)
        self._frames: deque[NatsDelivery] = deque()
        self._news = asyncio.Event()
        self._hold: asyncio.TimerHandle | None = None
        self._standing = self._closed = False

    async def fetch(self, max_frames: int, timeout_s: float) -> Sequence[NatsDelivery]:
        """Up to `max_frames` as soon as there is one. Raises `BrokerUnavailable` once closed."""
        if self._closed:
            raise BrokerUnavailable("this task source is closed")
        self._stay()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not (self._frames or self._closed) and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await self._wait(max_frames, left)
        self._leave()
        return [self._frames.popleft() for _ in range(min(max_frames, len(self._frames)))]

    async def close(self) -> None:
        """Take no more; what was not fetched goes back at once. A waiting `fetch` returns empty."""
        self._closed = True
        self._stay()
        self._stand_down()
        self._news.set()

    def disconnected(self) -> None:
        """The connection was lost."""
        self._pull.lost()

    def reconnected(self) -> None:
        """The connection is back; frames of another life are worth nothing now."""
        self._frames = deque(frame for frame in self._frames if frame.is_current)
        self._wake()

    async def _wait(self, max_frames: int, timeout_s: float) -> None:
        self._news.clear()
        if self._pull.gone:
            await self._rejoin()
            return
        if self._life().reachable:
            self._pull.want(max_frames)
        await heard(self._news, min(timeout_s, self._pull.silence_in))

    async def _rejoin(self) -> None:
        try:
            await self._join()
        except BrokerUnavailable:
            await asyncio.sleep(_RETRY_S)
        else:
            self._pull.gone = False

    def _arrived(self, reply: bytes, data: bytes, _headers: bytes | None) -> None:
        delivery = NatsDelivery(self._wire, self._life(), reply, data)
        if self._standing:
            self._frames.append(delivery)
            self._news.set()
        else:
            delivery.give_back()

    def _wake(self) -> None:
        self._news.set()

    def _stay(self) -> None:
        self._standing = True
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _leave(self) -> None:
        if not self._closed:
            self._stay()
            self._hold = asyncio.get_running_loop().call_later(HOLD_S, self._stand_down)

    def _stand_down(self) -> None:
        self._standing = False
        self._pull.give_back()
        while self._frames:
            self._frames.popleft().give_back()
