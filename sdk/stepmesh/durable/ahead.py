"""How far a body goes ahead of its history: what came of idempotent steps it may have before the history has it, for some time.

Invariant: once something else came first, and what was done ahead did not count, each turn is told until one counted: so a flood of
records from elsewhere slows a body down, and does not stop it.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepmesh_broker.protocol.histories import Record, Settled, Tried, size_of


class Ahead:
    """Of one activation. `most_s`: seconds from the first result that was not told, 0 = never; `most_bytes`: of what was not told.
    `overtaken`: the last time did not count."""

    def __init__(self, most_s: float, most_bytes: int) -> None:
        self.overtaken = False
        self._most_s = most_s
        self._most_bytes = most_bytes
        self._since = 0.0
        self._bytes = 0

    def may_have(self, new: Sequence[Record], now: float, *, is_first: bool) -> bool:
        """Whether the body may have these records, too. `now`: seconds of whatever clock; `is_first`: whether all is told that it has."""
        if not self._most_s or self.overtaken or not any(isinstance(record, Settled) for record in new):
            return False
        if any(isinstance(record, Tried) for record in new):
            return False
        if is_first:
            self._since, self._bytes = now, 0
        self._bytes += sum(map(size_of, new))
        return now - self._since < self._most_s and self._bytes < self._most_bytes
