"""An event loop whose time is virtual: when nothing is ready it jumps to the next timer, so hours of a simulation take no time.

Only for what runs in this loop alone (memory backends): a thread's work would be overtaken by the jumping clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: a wish to wait for n seconds moves the time by n seconds."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class LoopTimeClock:
    """The Clock port over the running loop's time."""

    def __init__(self, start_ms: int = 1_750_000_000_000) -> None:
        self._start_ms = start_ms

    def now_ms(self) -> int:
        return self._start_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_virtual(main: Coroutine[Any, Any, T], limit_s: float = 3_600.0) -> T:
    """Run to the end in virtual time; more than `limit_s` virtual seconds is a hang, and raises `TimeoutError`."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(asyncio.wait_for(main, limit_s))
