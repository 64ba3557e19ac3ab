"""The rule of a schedule: which times are due. Deterministic, given the definition and the time zone data; it never asks for the time.

Invariant: due times only grow, and where one begins to look changes none of them, so who remembers the last one finds the next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.recurrence.cron import COUNTED, Cron
from stepmesh_orchestrator.recurrence.interval import Interval
from stepmesh_orchestrator.recurrence.zones import UnknownZone, zone_of

LATE_MS = 60_000
"""A due time without catch-up is met up to so much later: a partition that moves or a machine that stutters is no downtime."""


class _Times(Protocol):
    def next_after(self, after_ms: int) -> int | None: ...
    def count(self, after_ms: int, until_ms: int) -> int: ...
    def newest(self, after_ms: int, until_ms: int, keep: int) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Met:
    """`dues`: to be met now, in order. `missed`: how many before them were not, the last of them at `missed_ms`."""

    dues: list[int]
    missed: int
    missed_ms: int


class _Never:
    """Nothing is due."""

    def next_after(self, after_ms: int) -> int | None:
        return None

    def count(self, after_ms: int, until_ms: int) -> int:
        return 0

    def newest(self, after_ms: int, until_ms: int, keep: int) -> list[int]:
        return []


class Rule:
    """Of one schedule. `trouble`: why nothing is due, if that is not as its definition says."""

    def __init__(self, schedule: Schedule, times: _Times, trouble: str = "") -> None:
        self.trouble = trouble
        self._schedule = schedule
        self._times = times

    def next_after(self, after_ms: int) -> int | None:
        """The first due time later than that; None when there is none."""
        due_ms = self._times.next_after(after_ms)
        until_ms = self._schedule.until_ms
        return None if due_ms is None or (until_ms is not None and due_ms > until_ms) else due_ms

    def coming(self, after_ms: int, limit: int) -> list[int]:
        """The first due times later than that."""
        found: list[int] = []
        while len(found) < limit and (due_ms := self.next_after(found[-1] if found else after_ms)) is not None:
            found.append(due_ms)
        return found

    def starts_ms(self, due_ms: int) -> int:
        """When the run for a due time starts: later by its jitter, but before the next due time. The same whenever it is asked."""
        jitter_ms = self._schedule.jitter_ms
        if not jitter_ms:
            return due_ms
        following = self._times.next_after(due_ms)
        most = jitter_ms if following is None else min(jitter_ms, following - due_ms - 1)
        chance = hashlib.blake2s(f"{self._schedule.id}/{due_ms}".encode(), digest_size=8).digest()
        return due_ms + int.from_bytes(chance, "big") % (most + 1)

    def met(self, after_ms: int, now_ms: int) -> Met:
        """What is to be done about the due times later than `after_ms` whose time has come."""
        schedule = self._schedule
        until_ms = now_ms if schedule.until_ms is None else min(now_ms, schedule.until_ms)
        most, window_ms = schedule.catch_up_max if schedule.catch_up == "all" else 1, schedule.catch_up_window_ms
        if schedule.catch_up == "none":
            window_ms = LATE_MS
        newest = self._times.newest(after_ms, until_ms, most + 2)  # one may be yet to start, one is the last before those to be met
        if newest and self.starts_ms(newest[-1]) > now_ms:
            newest.pop()
        dues = [due_ms for due_ms in newest[-most:] if not window_ms or self.starts_ms(due_ms) >= now_ms - window_ms]
        before = newest[: len(newest) - len(dues)]
        if not before:
            return Met(dues, 0, 0)
        return Met(dues, self._times.count(after_ms, before[-1]), before[-1])


def rule_of(schedule: Schedule) -> Rule:
    """Of a definition that was checked, perhaps on a machine with other time zone data."""
    if not schedule.cron:
        return Rule(schedule, Interval(schedule.every_ms, schedule.anchor_ms or 0))
    try:
        return Rule(schedule, Cron(schedule.cron, zone_of(schedule.time_zone)))
    except UnknownZone:
        return Rule(schedule, _Never(), f"the machine that has it knows no time zone {schedule.time_zone}")


__all__ = ["COUNTED", "LATE_MS", "Met", "Rule", "rule_of"]
