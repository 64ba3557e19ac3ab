"""Whether a partition's records come one after the other. faust 0.15 drops records while it gets going: after a rebalance it begins to
fetch before it seeks, and what it fetched meanwhile reaches nobody.

Invariant: a record is let through when it is the next one, or when the next one was asked for again `TRIES` times and is not there. Pure.
"""

from __future__ import annotations

import enum

TRIES = 3
SILENT_S = 3.0
"""How long the next record may be in the topic and not come, before it is asked for again."""


class Verdict(enum.Enum):
    """What to do with a record."""

    TAKE = "it is the next one"
    SEEN = "it came before"
    EARLY = "records before it did not come: ask for them, and for this one again"


class Delivery:
    """`expected`: offset of the next record."""

    def __init__(self, expected: int, now: float) -> None:
        self.expected = expected
        self._tries = 0
        self._since = now

    def check(self, offset: int, now: float) -> Verdict:
        """About a record that came."""
        if offset < self.expected:
            return Verdict.SEEN
        if offset > self.expected and self._tries < TRIES:
            return Verdict.EARLY
        self.expected, self._tries, self._since = offset + 1, 0, now
        return Verdict.TAKE

    def asked(self, now: float, *, early: bool) -> None:
        """The next record was asked for again; `early`: because one after it came."""
        self._since = now
        self._tries += early

    def is_silent(self, end: int | None, now: float) -> bool:
        """`end`: offset after the topic's last record."""
        if end is None or end <= self.expected:
            self._since = now
            return False
        return now - self._since > SILENT_S
