"""When each schedule, or key, is to be looked at. Soft state: it follows from these, so losing it in a crash is harmless."""

from __future__ import annotations

import heapq


class Agenda:
    """Of one shard, by wall clock ms. Each name has one time; setting another voids it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._times: dict[str, int] = {}

    def set(self, name: str, due_ms: int) -> None:
        """Look at it at `due_ms`."""
        if self._times.get(name) != due_ms:
            self._times[name] = due_ms
            heapq.heappush(self._heap, (due_ms, name))

    def next_due(self) -> int | None:
        """The earliest time; None when nothing waits."""
        heap, times = self._heap, self._times
        while heap and times.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now_ms: int, limit: int) -> list[str]:
        """Take those that are due, earliest first."""
        taken: list[str] = []
        while len(taken) < limit and (first := self.next_due()) is not None and first <= now_ms:
            name = heapq.heappop(self._heap)[1]
            del self._times[name]
            taken.append(name)
        return taken
