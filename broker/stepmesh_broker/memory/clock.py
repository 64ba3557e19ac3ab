"""Time for the memory broker: the event loop's, or a virtual one that a test moves by hand.

Invariant: nothing in this package waits on a time but through a `Clock`. It must not know what the time is for.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Timer(Protocol):
    """A scheduled call that can be called off."""

    def cancel(self) -> None:
        """Do not call. Idempotent."""
        ...


class Clock(Protocol):
    """Monotonic seconds, and calls that come later."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin."""
        ...

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` on the event loop once `delay_s` seconds are over."""
        ...


class LoopClock:
    """The running event loop's own time."""

    def monotonic(self) -> float:
        """`loop.time()`, in seconds."""
        return asyncio.get_running_loop().time()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """`loop.call_later`."""
        return asyncio.get_running_loop().call_later(delay_s, action)


class _VirtualTimer:
    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class VirtualClock:
    """Stands still until `advance` moves it; due calls run in order of time, then of registration."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, _VirtualTimer]] = []

    def monotonic(self) -> float:
        """Virtual seconds since this clock was made."""
        return self._now

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` inside the `advance` that passes this moment."""
        timer = _VirtualTimer(action)
        heapq.heappush(self._due, (self._now + delay_s, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`; tasks get some turns of the loop before, between and after the due calls."""
        end = self._now + seconds
        await _settle()
        while self._due and self._due[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._due)
            if timer.action is not None:
                timer.action()
                await _settle()
        self._now = end


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def wait(clock: Clock, future: asyncio.Future[_T], timeout_s: float, otherwise: _T) -> _T:
    """What `future` brings within `timeout_s`, else `otherwise`."""

    def give_up() -> None:
        if not future.done():
            future.set_result(otherwise)

    timer = clock.call_later(timeout_s, give_up)
    try:
        return await future
    finally:
        timer.cancel()
