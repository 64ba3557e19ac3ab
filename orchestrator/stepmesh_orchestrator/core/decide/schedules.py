"""What is asked of schedules by hand: to be made, changed, paused, resumed, deleted, and to start runs whatever is due."""

from __future__ import annotations

from msgspec import structs

from stepmesh_broker.protocol.ids import partition_of, scheduled_run_id
from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.core.commands import (
    BackfillSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    ResumeSchedule,
    TriggerSchedule,
)
from stepmesh_orchestrator.core.decide import firing
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.schedule_events import NO_RUN, ScheduleDeleted, ScheduleSet, ScheduleSkipped
from stepmesh_orchestrator.core.schedules import Entry
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.recurrence import rule_of


def put_schedule(session: Session, command: PutSchedule) -> None:
    """One that is there as it is asked for is accepted again; while its times stay the same, none of them is passed over."""
    entries = session.state.schedules.entries
    known = entries.get(command.schedule.id)
    schedule = _anchored(command.schedule, known, session.now)
    refusal = None if known is not None and schedule == known.schedule else _refusal(session, known, schedule, replace=command.replace)
    if refusal is not None:
        session.cause(Answered(refusal))
        return
    if known is None or schedule != known.schedule:
        after_ms = known.after_ms if known is not None and _times(known.schedule) == _times(schedule) else session.now
        if known is not None:
            _let_go(session, known, schedule)
        session.emit(ScheduleSet(command.namespace, schedule, after_ms))
    session.cause(Answered(Accepted(NO_RUN, existing=known is not None)))
    firing.look(session, schedule.id)


def _anchored(schedule: Schedule, known: Entry | None, now: int) -> Schedule:
    """An interval without an anchor has that of its making."""
    if not schedule.every_ms or schedule.anchor_ms is not None:
        return schedule
    same = known is not None and known.schedule.every_ms == schedule.every_ms
    return structs.replace(schedule, anchor_ms=known.schedule.anchor_ms if known is not None and same else now)


def _refusal(session: Session, known: Entry | None, schedule: Schedule, *, replace: bool) -> Refused | None:
    if known is not None and not replace:
        return Refused("SM-5241", f"schedule {schedule.id} exists, and is another", "replace it, or choose another id")
    most = session.settings.max_schedules
    if known is None and len(session.state.schedules.entries) >= most:
        return Refused("SM-5242", f"this partition has {most} schedules already", "delete some that are finished")
    if rule_of(schedule).next_after(session.now) is None:
        return Refused("SM-5243", f"schedule {schedule.id} is never due from now on", "look at its cron expression, anchor and until")
    return None


def _times(schedule: Schedule) -> tuple[object, ...]:
    paused = schedule.paused
    return schedule.cron, schedule.every_ms, schedule.anchor_ms, schedule.time_zone, paused


def _let_go(session: Session, known: Entry, schedule: Schedule) -> None:
    """What waits for runs to end waits no more when the schedule does not do so any more."""
    if known.waiting_ms is not None and (schedule.paused or schedule.overlap != "buffer_one"):
        session.emit(ScheduleSkipped(schedule.id, known.waiting_ms, 1, "the schedule was paused or changed while it waited"))


def delete_schedule(session: Session, command: DeleteSchedule) -> None:
    """Its runs go on."""
    if _known(session, command.schedule) is not None:
        session.emit(ScheduleDeleted(command.schedule))
        session.cause(Answered(Accepted(NO_RUN)))


def pause_schedule(session: Session, command: PauseSchedule) -> None:
    """It keeps its place, and what waits for runs to end is let go of."""
    entry = _known(session, command.schedule)
    if entry is not None:
        _set_paused(session, entry, True, entry.after_ms)


def resume_schedule(session: Session, command: ResumeSchedule) -> None:
    """What was due in between is not made up for: a backfill does that."""
    entry = _known(session, command.schedule)
    if entry is not None:
        _set_paused(session, entry, False, session.now)
        firing.look(session, command.schedule)


def _set_paused(session: Session, entry: Entry, paused: bool, after_ms: int) -> None:
    existing = entry.schedule.paused == paused
    if not existing:
        schedule = structs.replace(entry.schedule, paused=paused)
        _let_go(session, entry, schedule)
        session.emit(ScheduleSet(entry.namespace, schedule, after_ms))
    session.cause(Answered(Accepted(NO_RUN, existing)))


def trigger_schedule(session: Session, command: TriggerSchedule) -> None:
    """Also while it is paused or finished, and whatever runs of it live."""
    entry = _known(session, command.schedule, command.flow)
    if entry is None:
        return
    partitions, here = session.partitions, session.state.partition
    if partition_of(command.run, partitions) != here:
        session.cause(Answered(Refused("SM-5245", f"run {command.run} does not belong to partition {here}", "draw another id for it")))
        return
    session.cause(Answered(firing.start(session, entry, command.flow, session.now, command.run, manual=True)))


def backfill_schedule(session: Session, command: BackfillSchedule) -> None:
    """All at once: the limit of tasks in flight is each run's own."""
    entry = _known(session, command.schedule, command.flow)
    if entry is None:
        return
    about = f"{entry.namespace}/{command.schedule}/{command.key}"
    for due_ms in command.dues:
        run = scheduled_run_id(about, due_ms, session.state.partition, session.partitions)
        answer = firing.start(session, entry, command.flow, due_ms, run, manual=True)
        if isinstance(answer, Refused):  # so is every other
            session.cause(Answered(answer))
            return
    session.cause(Answered(Accepted(NO_RUN)))


def _known(session: Session, name: str, flow: CompiledFlow | None = None) -> Entry | None:
    """The schedule; None when the answer says why not."""
    entry = session.state.schedules.entries.get(name)
    if entry is None:
        session.cause(Answered(unknown_schedule(name)))
    elif flow is not None and flow.id != entry.schedule.flow:
        session.cause(Answered(Refused("SM-5246", f"schedule {name} was given another flow just now", "ask again")))
        return None
    return entry


def unknown_schedule(name: str) -> Refused:
    """SM-5240."""
    return Refused("SM-5240", f"there is no schedule {name[:140]!r}", "`stepmesh schedule list` shows them")
