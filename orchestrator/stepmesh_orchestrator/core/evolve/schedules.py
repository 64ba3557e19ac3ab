"""Appliers of schedule events: what a schedule is, how far it came, which of its runs live."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import schedule_events as events
from stepmesh_orchestrator.core.schedules import Entry
from stepmesh_orchestrator.core.state import State


def schedule_set(state: State, event: events.ScheduleSet, at_ms: int) -> None:
    """What happened under an earlier definition stays known."""
    entry = state.schedules.entries.get(event.schedule.id)
    if entry is None:
        state.schedules.entries[event.schedule.id] = Entry(event.namespace, event.schedule, at_ms, event.after_ms)
    else:
        entry.schedule, entry.after_ms = event.schedule, event.after_ms


def schedule_deleted(state: State, event: events.ScheduleDeleted, at_ms: int) -> None:
    """Its live runs are nobody's."""
    for run in state.schedules.entries.pop(event.schedule).live:
        del state.schedules.runs[run]


def schedule_fired(state: State, event: events.ScheduleFired, at_ms: int) -> None:
    """The run lives until it ends; a gate of its flow may have ended it already."""
    entry = state.schedules.entries[event.schedule]
    if event.started in state.runs:
        entry.live.append(event.started)
        state.schedules.runs[event.started] = event.schedule
    entry.ends += event.ends
    entry.last_due_ms, entry.last_run = event.due_ms, event.started
    if not event.manual:
        entry.fired += 1
        _dealt_with(entry, event.due_ms)


def schedule_skipped(state: State, event: events.ScheduleSkipped, at_ms: int) -> None:
    """Counted, with the last reason."""
    entry = state.schedules.entries[event.schedule]
    entry.skipped += event.count
    entry.skipped_due_ms, entry.skipped_reason = event.due_ms, event.reason
    _dealt_with(entry, event.due_ms)


def schedule_waits(state: State, event: events.ScheduleWaits, at_ms: int) -> None:
    """One due time at most."""
    entry = state.schedules.entries[event.schedule]
    entry.after_ms = max(entry.after_ms, event.due_ms)
    entry.waiting_ms = event.due_ms


def run_over(state: State, run: RunId) -> None:
    """A run ended; most are no schedule's."""
    name = state.schedules.runs.pop(run, None)
    if name is not None:
        entry = state.schedules.entries[name]
        entry.live.remove(run)
        if run in entry.ends:
            entry.ends.remove(run)


def _dealt_with(entry: Entry, due_ms: int) -> None:
    entry.after_ms = max(entry.after_ms, due_ms)
    if entry.waiting_ms == due_ms:
        entry.waiting_ms = None
