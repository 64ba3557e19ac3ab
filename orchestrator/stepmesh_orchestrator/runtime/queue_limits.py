"""How long tasks may wait in pools whose plugin has a limit (`queueTimeoutSecs`). A wait ends with a claim or a result, never a worker.

Soft state: a wait is derived again from the journal, so a restart prolongs it at most.
"""

from __future__ import annotations

import heapq
from itertools import count

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.effects import LimitWait


class QueueLimits:
    """The waits of one shard's tasks, by due time (wall clock ms)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, LimitWait]] = []
        self._order = count()

    def put(self, wait: LimitWait, due_ms: int | None = None) -> None:
        """To be looked at when it is due, or at `due_ms`."""
        heapq.heappush(self._heap, (wait.due_ms if due_ms is None else due_ms, next(self._order), wait))

    def due(self, now_ms: int) -> list[LimitWait]:
        """Take those that are due, earliest first."""
        taken: list[LimitWait] = []
        while self._heap and self._heap[0][0] <= now_ms:
            taken.append(heapq.heappop(self._heap)[2])
        return taken


def nobody_came(wait: LimitWait) -> Failure:
    """TIMEOUT."""
    seconds = wait.waits_ms / 1000
    return Failure(ErrorCode.TIMEOUT, f"waited {seconds:g} s in pool {wait.pool}: no worker took it")
