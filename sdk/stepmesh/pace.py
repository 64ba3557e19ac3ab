"""How many tasks a worker takes in advance from a gateway: about as many as it ends within 20 ms, so that none waits for long.

A rule over numbers that come in; it knows no clock.
"""

from __future__ import annotations

AHEAD_US = 20_000
"""What is taken in advance is done within this time, µs."""
MOST = 512
"""Tasks taken in advance at most."""
_WEIGHT = 0.1


class Pace:
    """From what recent tasks took."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._mean_us = float(AHEAD_US)  # until one has ended, nothing is taken in advance

    def observe(self, duration_us: int) -> None:
        """A task took this long."""
        self._mean_us += (duration_us - self._mean_us) * _WEIGHT

    def ahead(self, quick: bool) -> int:
        """Tasks to have waiting. `quick`: they end without suspending, so one at a time."""
        if self._mean_us >= AHEAD_US:
            return 0
        lanes = 1 if quick else self._concurrency
        return min(MOST, int(lanes * AHEAD_US / max(1.0, self._mean_us)))
