"""What wakes a shard because of the time: one task, however often another moment is asked for. Knows nothing of what is due."""

from __future__ import annotations

import asyncio

from stepmesh_orchestrator.ports import Clock

LONGEST_SLEEP_S = 60.0
"""A shard looks at the wall clock at least so often while a timer waits: it may have been set."""


class Alarm:
    """Sets `wake`. It outlives a wait, so that a busy shard does not make one for each."""

    def __init__(self, clock: Clock, wake: asyncio.Event) -> None:
        self._clock = clock
        self._wake = wake
        self._task: asyncio.Task[None] | None = None
        self._due_ms = 0

    def set(self, due_ms: int) -> None:
        """Wake at `due_ms` (ms since 1970), or before."""
        if self._task is not None and not self._task.done():
            if self._due_ms <= due_ms:
                return
            self._task.cancel()
        self._due_ms = due_ms
        self._task = asyncio.ensure_future(self._ring(due_ms))

    def cancel(self) -> None:
        """Wake nobody any more."""
        if self._task is not None:
            self._task.cancel()

    async def _ring(self, due_ms: int) -> None:
        delay_s = (due_ms - self._clock.now_ms()) / 1000
        await self._clock.sleep(min(max(0.0, delay_s), LONGEST_SLEEP_S))
        self._wake.set()
