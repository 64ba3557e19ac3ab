"""The schedules of a partition as values, and what is known of each. Only `evolve` writes what events say.

Invariant: `after_ms` never goes back but when a schedule is set, so no due time is met twice, whatever the clock does. Knows neither the
time nor what is due (see recurrence).
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.schedules import Schedule

ACTIVE, PAUSED, FINISHED, BLOCKED = "active", "paused", "finished", "blocked"


class Entry(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One schedule. `after_ms`: due times up to then are dealt with. `live`: its runs that have not ended, oldest first; `ends`: those of
    them that are to be cancelled when they are back in memory. `waiting_ms`: the due time that waits for their end."""

    namespace: Namespace
    schedule: Schedule
    created_ms: int
    after_ms: int
    fired: int = 0
    skipped: int = 0
    live: list[RunId] = []
    ends: list[RunId] = []
    waiting_ms: int | None = None
    last_due_ms: int | None = None
    last_run: RunId | None = None
    skipped_due_ms: int | None = None
    skipped_reason: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it met as many due times as it may."""
        return 0 < self.schedule.max_runs <= self.fired

    @property
    def may_go_on(self) -> bool:
        """Whether a due time waited for runs, and the last of them has ended."""
        return self.waiting_ms is not None and not self.live


class Schedules:
    """By id. `runs`: live runs, by which schedule started them."""

    __slots__ = ("entries", "runs")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.runs: dict[RunId, str] = {}

    def of_run(self, run: RunId) -> Entry | None:
        """What started a live run."""
        name = self.runs.get(run)
        return None if name is None else self.entries[name]

    def encoded(self) -> bytes:
        """For a snapshot; nothing when there is none."""
        return _encoder.encode(list(self.entries.values())) if self.entries else b""

    def restore(self, payload: bytes) -> None:
        """What `encoded` gave."""
        for entry in _decoder.decode(payload) if payload else ():
            self.entries[entry.schedule.id] = entry
            self.runs.update((run, entry.schedule.id) for run in entry.live)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Entry])
