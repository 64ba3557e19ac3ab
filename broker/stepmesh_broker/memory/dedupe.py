"""Which message ids a stream has seen within its window.

Invariant: within `window_s` of its first use an id maps to its first position. It must not know what the messages are.
"""

from __future__ import annotations

from collections import OrderedDict

from stepmesh_broker.memory.clock import Clock
from stepmesh_broker.protocol.ids import Position


class DedupeWindow:
    """Message id → first position, forgotten after `window_s` seconds."""

    def __init__(self, clock: Clock, window_s: float) -> None:
        self._clock = clock
        self._window_s = window_s
        self._seen: OrderedDict[str, tuple[Position, float]] = OrderedDict()

    def first(self, message_id: str) -> Position | None:
        """Where this id was stored, if it was within the window."""
        self._forget()
        known = self._seen.get(message_id)
        return known[0] if known else None

    def remember(self, message_id: str, position: Position) -> None:
        """Note an id; the empty one is never a duplicate."""
        if message_id:
            self._seen[message_id] = (position, self._clock.monotonic())

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()

    def _forget(self) -> None:
        horizon = self._clock.monotonic() - self._window_s
        while self._seen and next(iter(self._seen.values()))[1] <= horizon:
            self._seen.popitem(last=False)
