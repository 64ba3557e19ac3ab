"""How much may be under way at once: who wants more waits until enough of it is back.

Invariant: what is under way never exceeds the limit, except for one load that is larger than the limit and goes alone. Waiting is in
order, so a large load is not overtaken for ever. It must not know what the loads are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple


class Load(NamedTuple):
    """Of one submission, or of several."""

    runs: int
    inputs: int
    bytes: int

    def plus(self, other: Load) -> Load:
        """Both."""
        return Load(self.runs + other.runs, self.inputs + other.inputs, self.bytes + other.bytes)

    def minus(self, other: Load) -> Load:
        """Without the other."""
        return Load(self.runs - other.runs, self.inputs - other.inputs, self.bytes - other.bytes)

    def within(self, limit: Load) -> bool:
        """In all respects."""
        return self.runs <= limit.runs and self.inputs <= limit.inputs and self.bytes <= limit.bytes


NOTHING = Load(0, 0, 0)


class Headroom:
    """`taken`: what is under way."""

    def __init__(self, limit: Load) -> None:
        self.taken = NOTHING
        self._limit = limit
        self._waiting: deque[tuple[asyncio.Future[None], Load]] = deque()

    async def take(self, load: Load) -> None:
        """Returns when there is room, which is then taken."""
        if not self._waiting and self._fits(load):
            self.taken = self.taken.plus(load)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, load))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._next()
            else:
                self.give_back(load)
            raise

    def give_back(self, load: Load) -> None:
        """It is under way no more."""
        self.taken = self.taken.minus(load)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn, load = self._waiting[0]
            if not turn.done():
                if not self._fits(load):
                    return
                self.taken = self.taken.plus(load)
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, load: Load) -> bool:
        return self.taken == NOTHING or self.taken.plus(load).within(self._limit)
