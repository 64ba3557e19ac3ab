"""Due times of a cron expression in a time zone, with Debian cron's rules for clock changes (cronsim's).

A fixed hour that the clocks leap over is due right after the leap, one that comes twice is due the first time; with a star in minute or
hour, every real hour counts. Invariant: which times are due does not depend on where one begins to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

COUNTED = 1_000
"""Due times of one gap that are counted at most: a look at one costs up to 0.2 ms."""
LAST_MS = 253_000_000_000_000
"""In the year 9987: nothing is due later."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """`expression` is one that was checked."""

    expression: str
    zone: tzinfo

    def next_after(self, after_ms: int) -> int | None:
        """The first due time later than that; None when there is none within 50 years."""
        return next(self._after(after_ms), None)

    def count(self, after_ms: int, until_ms: int) -> int:
        """How many are later than the one and no later than the other, up to `COUNTED`."""
        return len(self._between(after_ms, until_ms, COUNTED))

    def newest(self, after_ms: int, until_ms: int, keep: int) -> list[int]:
        """The last of those, in order. It looks back further and further, so that a long gap costs no more than what it gives."""
        span = 60_000
        while True:
            start = max(after_ms, until_ms - span)
            found = self._between(start, until_ms)
            if len(found) >= keep or start == after_ms:
                return found[-keep:]
            span *= 4

    def _between(self, after_ms: int, until_ms: int, limit: int | None = None) -> list[int]:
        found: list[int] = []
        for due_ms in islice(self._after(after_ms), limit):
            if due_ms > until_ms:
                break
            found.append(due_ms)
        return found

    def _after(self, after_ms: int) -> Iterator[int]:
        from stepmesh_orchestrator.recurrence.walking import RealDays  # late: only who has a cron schedule pays for cronsim

        latest = after_ms
        looking = RealDays(self.expression, _local(after_ms, self.zone))
        while latest < LAST_MS and (found := next(looking, None)) is not None:
            due_ms = (found.astimezone(UTC) - _EPOCH) // _MS
            if due_ms > latest:  # in an hour that comes twice, the look begins with the first one
                latest = due_ms
                yield due_ms


def _local(at_ms: int, zone: tzinfo) -> datetime:
    return (_EPOCH + at_ms * _MS).astimezone(zone)
