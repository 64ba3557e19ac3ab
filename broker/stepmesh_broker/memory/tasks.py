"""A pool's work queue: each frame is with at most one consumer at a time until it is acknowledged.

Invariant: a frame leaves only by `ack` (or `clear`); one that is neither acknowledged nor extended within the ack wait
goes back to the head of the queue. It must not know who the consumers are.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory.clock import Clock, Timer, wait
from stepmesh_broker.ports import PoolDepth
from stepmesh_broker.protocol.ids import Position

Frames = Sequence["MemoryDelivery"]


class _Frame:
    __slots__ = ("data", "deliveries", "holder", "position", "timer")

    def __init__(self, position: Position, data: bytes) -> None:
        self.position = position
        self.data = data
        self.deliveries = 0
        self.holder: MemoryDelivery | None = None
        self.timer: Timer | None = None


class MemoryDelivery:
    """`Delivery`: one handing-out of one frame. A nak or extension by one that lost the frame has no effect."""

    __slots__ = ("_frame", "_queue", "deliveries")

    def __init__(self, queue: TaskQueue, frame: _Frame) -> None:
        self._queue = queue
        self._frame = frame
        self.deliveries = frame.deliveries

    @property
    def data(self) -> bytes:
        """The frame."""
        return self._frame.data

    async def ack(self) -> None:
        """Remove the frame, whoever holds it now."""
        self._queue.ack(self._frame)

    async def in_progress(self) -> None:
        """Restart the ack wait."""
        if self._frame.holder is self:
            self._queue.hold(self._frame, self)

    async def nak(self, delay_s: float = 0.0) -> None:
        """Back to the queue after `delay_s`."""
        if self._frame.holder is self:
            self._queue.give_back(self._frame, delay_s)


class Taker(NamedTuple):
    """A consumer that waits: where its frames go, and how many it has room for."""

    future: asyncio.Future[Frames]
    max_frames: int


class TaskQueue:
    """Frames of one pool. `ack_wait_s`: how long a consumer may keep a frame without a sign of life."""

    def __init__(self, clock: Clock, ack_wait_s: float) -> None:
        self._clock = clock
        self._ack_wait_s = ack_wait_s
        self._unacked: OrderedDict[Position, _Frame] = OrderedDict()
        self._ready: list[Position] = []
        self._takers: deque[Taker] = deque()
        self._last = Position(0)

    def put(self, position: Position, data: bytes) -> None:
        """Add a frame; positions grow."""
        self._unacked[position] = _Frame(position, data)
        self._last = position
        self._make_ready(position)

    def ask(self, taker: Taker) -> None:
        """Let a consumer wait in line; its future gets the frames."""
        self._takers.append(taker)
        self._serve()

    def withdraw(self, taker: Taker) -> None:
        """Leave the line."""
        if taker in self._takers:
            self._takers.remove(taker)

    def ack(self, frame: _Frame) -> None:
        """Forget the frame."""
        if self._unacked.get(frame.position) is frame:
            del self._unacked[frame.position]
            self._release(frame)

    def hold(self, frame: _Frame, holder: MemoryDelivery) -> None:
        """Start (again) the ack wait of the frame for its holder."""
        self._release(frame)
        frame.holder = holder
        frame.timer = self._clock.call_later(self._ack_wait_s, lambda: self.give_back(frame, 0.0))

    def give_back(self, frame: _Frame, delay_s: float) -> None:
        """Make the frame ready again after `delay_s`."""
        self._release(frame)
        if delay_s > 0:
            frame.timer = self._clock.call_later(delay_s, lambda: self._make_ready(frame.position))
        else:
            self._make_ready(frame.position)

    def depth(self) -> PoolDepth:
        """Frames that wait (a delayed one is in flight), frames handed out, and the floor."""
        ready = sum(position in self._unacked for position in self._ready)
        floor = next(iter(self._unacked), self._last + 1) - 1
        return PoolDepth(ready, len(self._unacked) - ready, Position(floor))

    def clear(self) -> None:
        """Lose every frame, as a broker does whose storage is wiped."""
        for frame in self._unacked.values():
            self._release(frame)
        self._unacked.clear()
        self._ready.clear()
        self._last = Position(0)

    def _make_ready(self, position: Position) -> None:
        heapq.heappush(self._ready, position)
        self._serve()

    def _serve(self) -> None:
        while self._ready and self._takers:
            if self._takers[0].future.done() or self._give(self._takers[0]):
                self._takers.popleft()

    def _give(self, taker: Taker) -> bool:
        given: list[MemoryDelivery] = []
        while self._ready and len(given) < taker.max_frames:
            frame = self._unacked.get(heapq.heappop(self._ready))
            if frame is not None:
                given.append(self._hand_out(frame))
        if given:
            taker.future.set_result(given)
        return bool(given)

    def _hand_out(self, frame: _Frame) -> MemoryDelivery:
        frame.deliveries += 1
        delivery = MemoryDelivery(self, frame)
        self.hold(frame, delivery)
        return delivery

    def _release(self, frame: _Frame) -> None:
        frame.holder = None
        if frame.timer is not None:
            frame.timer.cancel()
            frame.timer = None


class MemoryTaskSource:
    """`TaskSource` over a `TaskQueue`."""

    def __init__(self, queue: TaskQueue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._closed = False
        self._waiting: set[asyncio.Future[Frames]] = set()

    async def fetch(self, max_frames: int, timeout_s: float) -> Frames:
        """Up to `max_frames` as soon as there is one. Raises `BrokerUnavailable` once closed."""
        if self._closed:
            raise BrokerUnavailable("this task source is closed")
        taker = Taker(asyncio.get_running_loop().create_future(), max_frames)
        self._waiting.add(taker.future)
        self._queue.ask(taker)
        try:
            return await wait(self._clock, taker.future, timeout_s, ())
        finally:
            self._waiting.discard(taker.future)
            self._queue.withdraw(taker)

    async def close(self) -> None:
        """Take no more; a waiting `fetch` returns empty."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(())
