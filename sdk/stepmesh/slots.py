"""Slots: how many attempts may be under way, and the rule that whoever waits for others holds none.

Invariant: `free` plus the slots held is constant; one that comes back from a wait goes before new work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from stepmesh.attempt import Attempt


class Slots:
    """`size`: slots in all. `on_free`: called when one may be taken. Used from the event loop's thread only."""

    def __init__(self, size: int, on_free: Callable[[], None]) -> None:
        self.size = size
        self.free = size
        self._on_free = on_free
        self._returning: deque[asyncio.Future[None]] = deque()

    def reserve(self, count: int) -> None:
        """Take slots for attempts that are not under way yet (they ask for a lease)."""
        self.free -= count

    def unreserve(self, count: int) -> None:
        """Give back what `reserve` took."""
        for _ in range(count):
            self._give()

    def hold(self, attempt: Attempt) -> None:
        """The attempt is under way; without a slot while it waits for others."""
        if not attempt.parked:
            self.free -= 1
            attempt.holds_slot = True

    def release(self, attempt: Attempt) -> None:
        """The attempt's slot, if it holds one, is free."""
        if attempt.holds_slot:
            attempt.holds_slot = False
            self._give()

    @asynccontextmanager
    async def parked(self, attempt: Attempt) -> AsyncGenerator[None]:
        """Wait for others inside this: the slot is free meanwhile, and taken again at the end."""
        attempt.parked += 1
        self.release(attempt)
        try:
            yield
        finally:
            attempt.parked -= 1
            if attempt.live and not attempt.parked and not attempt.holds_slot and attempt.why is None:
                await self._retake(attempt)
            attempt.heard_at = asyncio.get_running_loop().time()

    async def _retake(self, attempt: Attempt) -> None:
        if self.free > 0:
            self.free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._returning.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give()
                raise
        attempt.holds_slot = True

    def _give(self) -> None:
        while self._returning:
            turn = self._returning.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1
        self._on_free()
