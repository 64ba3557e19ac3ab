"""Signs of life of an attempt that has to give them: one that is silent for too long is ended.

Invariant: a sign costs a look at the clock and nothing else, from whatever thread it comes. It must not know what the attempt is.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Silent(Exception):
    """The attempt gave no sign of life for so long."""

    def __init__(self, within_s: float) -> None:
        super().__init__(f"the attempt gave no sign of life for {within_s:g} s")
        self.within_s = within_s


class Pulse:
    """Around the attempt; raises `Silent` in it. `within_s`: how long it may be silent."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def beat(self) -> None:
        """It is alive."""
        self._heard = self._loop.time()

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self.beat()
        self._timer = self._loop.call_later(self._within_s, self._look)

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, where: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._limit.__aexit__(kind, problem, where)
        except TimeoutError as late:
            raise Silent(self._within_s) from late

    def _look(self) -> None:
        left = self._heard + self._within_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif not self._limit.expired():
            self._limit.reschedule(self._loop.time())
