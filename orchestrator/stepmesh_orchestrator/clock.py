"""The Clock port: the machine's time, and a virtual one that tests and simulations turn by hand.

Both keep `now_ms` from going backwards. The virtual clock wakes sleepers strictly in order of their due times, and in the
order of their calls where those are equal, so that a simulation replays.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable


class SystemClock:
    """`wall_ns` reads the machine's wall clock, ns since 1970."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._wall_ns = wall_ns
        self._latest_ms = 0

    def now_ms(self) -> int:
        """See the port. Stands still while the machine's clock is set back."""
        self._latest_ms = max(self._latest_ms, self._wall_ns() // 1_000_000)
        return self._latest_ms

    def monotonic(self) -> float:
        """See the port."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See the port."""
        await asyncio.sleep(seconds)


class VirtualClock:
    """Starts at `start_ms` (ms since 1970) and moves only in `advance`. After each waking, `settle` passes of the event loop let
    the woken tasks run, and register their next sleep, before time goes on.
    """

    def __init__(self, start_ms: int = 1_750_000_000_000, settle: int = 20) -> None:
        self._start_ms = start_ms
        self._settle = settle
        self._elapsed = 0.0
        self._calls = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """See the port."""
        return self._start_ms + int(self._elapsed * 1000 + 1e-6)

    def monotonic(self) -> float:
        """See the port. Seconds since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """See the port. Without a positive duration only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        self._calls += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._calls, woken))
        await woken

    def next_due(self) -> float | None:
        """Seconds until the next sleeper wakes; None when nobody sleeps."""
        self._drop_cancelled()
        return self._sleepers[0][0] - self._elapsed if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Let time pass; whoever is due wakes at its due time, also those who fall asleep on the way. Raises `ValueError` below 0."""
        if seconds < 0:
            raise ValueError("time does not go backwards")
        target = self._elapsed + seconds
        await self._let_run()
        while self.next_due() is not None and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            self._elapsed = due
            woken.set_result(None)
            await self._let_run()
        self._elapsed = target

    def _drop_cancelled(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)

    async def _let_run(self) -> None:
        for _ in range(self._settle):
            await asyncio.sleep(0)
