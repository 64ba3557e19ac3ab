"""Due times at a fixed distance, in elapsed time: no time zone and no clock change moves them. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """`anchor_ms` is the first due time."""

    every_ms: int
    anchor_ms: int

    def next_after(self, after_ms: int) -> int | None:
        """The first due time later than that."""
        if after_ms < self.anchor_ms:
            return self.anchor_ms
        return self.anchor_ms + ((after_ms - self.anchor_ms) // self.every_ms + 1) * self.every_ms

    def count(self, after_ms: int, until_ms: int) -> int:
        """How many are later than the one and no later than the other."""
        return max(0, self._number(until_ms) - self._number(after_ms))

    def newest(self, after_ms: int, until_ms: int, keep: int) -> list[int]:
        """The last of those, in order."""
        last = self._number(until_ms)
        first = max(last - keep, self._number(after_ms))
        return [self.anchor_ms + number * self.every_ms for number in range(first, last)]

    def _number(self, until_ms: int) -> int:
        """Of due times up to then."""
        return 0 if until_ms < self.anchor_ms else (until_ms - self.anchor_ms) // self.every_ms + 1
