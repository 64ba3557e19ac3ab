"""When dormant trees are to be back, and which live ones may become dormant: soft state of one shard, derived again after a recovery.

A million entries must fit, so a far one is no more than a reference in the list of its minute. Knows neither journals nor images.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from stepmesh_broker.protocol.ids import RunId

WIDTH_MS = 64_000
"""What is due later than the current stretch of this length is not sorted."""


class Wheel:
    """Dormant runs by the time when they are to be back. `when`: that time, ms since 1970, as the state has it; None for a run that is not
    dormant. An entry of a run that was woken otherwise is passed over."""

    def __init__(self, when: Callable[[RunId], int | None]) -> None:
        self._when = when
        self._far: dict[int, list[RunId]] = {}
        self._stretches: list[int] = []  # a heap
        self._near: list[tuple[int, RunId]] = []  # a heap
        self._opened = 0
        self.changed = asyncio.Event()

    def put(self, run: RunId, wakes_ms: int) -> None:
        """Due at `wakes_ms`, as `when` gives it or sooner."""
        stretch = wakes_ms // WIDTH_MS
        if stretch <= self._opened:
            heapq.heappush(self._near, (wakes_ms, run))
            self.changed.set()
            return
        found = self._far.get(stretch)
        if found is not None:
            found.append(run)
            return
        self._far[stretch] = [run]
        heapq.heappush(self._stretches, stretch)
        self.changed.set()

    def hurry(self, run: RunId, now_ms: int) -> None:
        """Due now, however late `when` says."""
        heapq.heappush(self._near, (now_ms, run))
        self.changed.set()

    def next_due(self) -> int | None:
        """When to look again, ms since 1970; None when nothing waits."""
        near = [self._near[0][0]] if self._near else []
        far = [self._stretches[0] * WIDTH_MS] if self._stretches else []
        return min([*near, *far], default=None)

    def due(self, now_ms: int, limit: int) -> list[RunId]:
        """Take dormant runs that are due, earliest first."""
        while self._stretches and self._stretches[0] * WIDTH_MS <= now_ms:
            self._open(heapq.heappop(self._stretches))
        taken: list[RunId] = []
        while self._near and self._near[0][0] <= now_ms and len(taken) < limit:
            run = heapq.heappop(self._near)[1]
            if self._when(run) is not None:
                taken.append(run)
        return taken

    def _open(self, stretch: int) -> None:
        self._opened = stretch
        found = ((self._when(run), run) for run in self._far.pop(stretch))
        self._near += [(wakes_ms, run) for wakes_ms, run in found if wakes_ms is not None and wakes_ms // WIDTH_MS <= stretch]
        heapq.heapify(self._near)


class Drowsy:
    """Live trees that wait for a timer that is far away, and when to see whether they may become dormant."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, RunId]] = []
        self._known: set[RunId] = set()

    def put(self, root: RunId, at_ms: int) -> None:
        """Look at it at `at_ms`, unless it is to be looked at anyhow."""
        if root not in self._known:
            self._known.add(root)
            heapq.heappush(self._heap, (at_ms, root))

    def next_due(self) -> int | None:
        """When to look at the next one, ms since 1970; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int, limit: int) -> list[RunId]:
        """Take those to look at, earliest first."""
        taken: list[RunId] = []
        while self._heap and self._heap[0][0] <= now_ms and len(taken) < limit:
            taken.append(heapq.heappop(self._heap)[1])
        self._known.difference_update(taken)
        return taken
