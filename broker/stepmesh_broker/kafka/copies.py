"""Which records of a partition are copies of an earlier one: those that bear its id, within a window.

Invariant: whoever reads the same records judges alike, for the times are the broker's. It must not know what records hold.
"""

from __future__ import annotations

from collections import OrderedDict


class Copies:
    """`window_ms`: how long an id is remembered."""

    def __init__(self, window_ms: float) -> None:
        self._window_ms = window_ms
        self._ids: OrderedDict[str, int] = OrderedDict()

    def is_copy(self, message_id: str, now_ms: int) -> bool:
        """Whether the id was there before; it is from now on. An empty one never is."""
        while self._ids and next(iter(self._ids.values())) <= now_ms - self._window_ms:
            self._ids.popitem(last=False)
        if not message_id or message_id in self._ids:
            return bool(message_id)
        self._ids[message_id] = now_ms
        return False

    def forget(self) -> None:
        """All of them."""
        self._ids.clear()
