"""Frames in the hands of workers: their ack waits, and what is said of them.

Invariant: a frame that is neither acknowledged nor extended within the ack wait comes back. An acknowledgement counts whoever holds the
frame now; an extension or a nak counts only for who got it last. It must not know where frames come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stepmesh_broker.kafka.ledger import Frame


class KafkaDelivery:
    """`Delivery`. Nothing is sent by it: the source commits what was said, in batches."""

    __slots__ = ("_frame", "_hands", "deliveries")

    def __init__(self, hands: Hands, frame: Frame) -> None:
        self._hands = hands
        self._frame = frame
        self.deliveries = frame.handed

    @property
    def data(self) -> bytes:
        """The frame."""
        return self._frame.data

    async def ack(self) -> None:
        """Done."""
        self._hands.acked(self._frame)

    async def in_progress(self) -> None:
        """Restart the ack wait."""
        self._hands.extended(self._frame, self.deliveries)

    async def nak(self, delay_s: float = 0.0) -> None:
        """Hand back."""
        self._hands.returned(self._frame, self.deliveries, delay_s)


class Hands:
    """All of one source. `on_silent` and `on_returned` get frames back; `on_acked` hears of those that are done."""

    def __init__(
        self, ack_wait_s: float, on_acked: Callable[[Frame], None], on_silent: Callable[[Frame], None], on_returned: Callable[[Frame], None]
    ) -> None:
        self._ack_wait_s = ack_wait_s
        self._on_acked = on_acked
        self._on_silent = on_silent
        self._on_returned = on_returned
        self._timers: dict[Frame, asyncio.TimerHandle] = {}
        self._delayed: set[Frame] = set()

    @property
    def are_empty(self) -> bool:
        """Whether nobody has anything."""
        return not self._timers

    def give(self, frame: Frame) -> KafkaDelivery:
        """Hand it out."""
        frame.ledger.hand_out(frame)
        self._wait(frame, self._ack_wait_s, self._silent)
        return KafkaDelivery(self, frame)

    def acked(self, frame: Frame) -> None:
        """Done with it."""
        self._forget(frame)
        if not frame.done:
            frame.done = True
            frame.ledger.finish(frame)
            self._on_acked(frame)

    def extended(self, frame: Frame, deliveries: int) -> None:
        """Its worker is at work."""
        if self._holds(frame, deliveries):
            self._wait(frame, self._ack_wait_s, self._silent)
            frame.ledger.keep(frame)

    def returned(self, frame: Frame, deliveries: int, delay_s: float) -> None:
        """Its worker does not want it, or not so soon."""
        if not self._holds(frame, deliveries):
            return
        if delay_s > 0:
            self._wait(frame, delay_s, self._back)
            self._delayed.add(frame)
            frame.ledger.keep(frame)
        else:
            self._back(frame)

    def empty(self) -> list[Frame]:
        """Take all from everybody."""
        frames = list(self._timers)
        for frame in frames:
            self._forget(frame)
        return frames

    def _holds(self, frame: Frame, deliveries: int) -> bool:
        return frame in self._timers and frame not in self._delayed and frame.handed == deliveries

    def _wait(self, frame: Frame, delay_s: float, then: Callable[[Frame], None]) -> None:
        self._forget(frame)
        self._timers[frame] = asyncio.get_running_loop().call_later(delay_s, then, frame)

    def _forget(self, frame: Frame) -> None:
        self._delayed.discard(frame)
        timer = self._timers.pop(frame, None)
        if timer is not None:
            timer.cancel()

    def _silent(self, frame: Frame) -> None:
        self._forget(frame)
        self._on_silent(frame)

    def _back(self, frame: Frame) -> None:
        self._forget(frame)
        self._on_returned(frame)
