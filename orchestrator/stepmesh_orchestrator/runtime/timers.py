"""Due times in a heap. Soft state: a timer is derived again from the journal, so forgetting is harmless and firing twice is too."""

from __future__ import annotations

import heapq
from itertools import count

from stepmesh_broker.protocol.messages import TaskRef


class Timers:
    """Timers of one shard, by wall clock ms."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, TaskRef]] = []
        self._order = count()

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
