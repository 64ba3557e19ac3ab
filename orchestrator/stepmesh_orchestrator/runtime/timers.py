"""Due times in a heap. Soft state: a timer is derived again from the journal, so forgetting is harmless and firing twice is too."""

from __future__ import annotations

import heapq
from collections.abc import Container
from itertools import count

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import TaskRef

PRUNED_FROM = 1_000
"""Void timers that are kept at least before it is worth to look for them."""


class Timers:
    """Timers of one shard, by wall clock ms."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, TaskRef]] = []
        self._order = count()
        self._void = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._heap)

    def set(self, due_ms: int, task: TaskRef) -> None:
        """Due at `due_ms`. A wait that ends otherwise leaves its timer to fire into nothing."""
        heapq.heappush(self._heap, (due_ms, next(self._order), task))

    def next_due(self) -> int | None:
        """The earliest due time; None when nothing waits."""
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int, limit: int = 10_000) -> list[TaskRef]:
        """Take those that are due, earliest first, at most `limit` so that a flood does not hold up a turn."""
        taken: list[TaskRef] = []
        while self._heap and self._heap[0][0] <= now_ms and len(taken) < limit:
            taken.append(heapq.heappop(self._heap)[2])
        return taken

    def void(self, live: Container[RunId]) -> None:
        """At least one is void now: its run is not among the live ones. They are forgotten once they are about the half, so that it costs a
        little for each."""
        self._void += 1
        if self._void >= max(PRUNED_FROM, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].run in live]
            heapq.heapify(self._heap)
            self._void = 0
