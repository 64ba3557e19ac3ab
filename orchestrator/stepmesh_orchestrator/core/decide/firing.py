"""Due times that have come: which of them start a run, which are passed over and why, and when to look again.

Invariant: each due time is journaled once, as fired, waiting or skipped, in the frame that holds its run, whose id follows from schedule
and due time. So neither a crash nor a clock that goes back doubles one, and none is lost without a reason.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId, scheduled_run_id
from stepmesh_broker.protocol.messages import Accepted, Failure, Refused, Submit
from stepmesh_orchestrator.core.commands import CancelRun, FireSchedule, StartRun
from stepmesh_orchestrator.core.decide import pausing, submit
from stepmesh_orchestrator.core.effects import Answered, NeedFlow, SetScheduleTimer, WakeRun
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.schedule_events import ScheduleFired, ScheduleSkipped, ScheduleWaits
from stepmesh_orchestrator.core.schedules import Entry
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.recurrence import Met, rule_of

MISSED = "missed: nobody was there to start it, or a later one was due too"
ENDED = "a later run of its schedule began"
_NOTHING = Met([], 0, 0)


def fire_schedule(session: Session, command: FireSchedule) -> None:
    """See `look`."""
    look(session, command.schedule)


def look(session: Session, name: str, trouble: Failure | None = None) -> None:
    """Meet what is due by now, and set the timer for what comes. `trouble`: why its flow cannot be had."""
    entry = session.state.schedules.entries.get(name)
    if entry is None:
        return
    for run in entry.ends:
        session.cause(WakeRun(run))
    if entry.schedule.paused:
        return
    rule = rule_of(entry.schedule)
    met = _NOTHING if entry.is_finished else rule.met(entry.after_ms, session.now)
    if (met.dues or entry.may_go_on) and trouble is None and session.flows.get(entry.schedule.flow) is None:
        _fetch(session, entry)
        return
    _meet(session, entry, met, trouble)
    following = None if entry.is_finished else rule.next_after(entry.after_ms)
    if following is not None:
        session.cause(SetScheduleTimer(rule.starts_ms(following), name))


def _fetch(session: Session, entry: Entry) -> None:
    """`resolve_flow` looks again."""
    flow = entry.schedule.flow
    waiting = session.awaiting_start.setdefault(flow.encode(), [])
    if not waiting:
        session.cause(NeedFlow(flow.encode(), None))
    if entry.schedule.id not in waiting:
        waiting.append(entry.schedule.id)


def _meet(session: Session, entry: Entry, met: Met, trouble: Failure | None) -> None:
    if entry.may_go_on and entry.waiting_ms is not None:
        _begin(session, entry, entry.waiting_ms, trouble)
    if met.missed:
        session.emit(ScheduleSkipped(entry.schedule.id, met.missed_ms, met.missed, MISSED))
    for due_ms in met.dues:
        if entry.is_finished:
            return
        overlap = entry.schedule.overlap if entry.live else "allow"
        if overlap == "skip":
            _skip(session, entry, due_ms, f"overlap: run {entry.live[-1]} has not ended")
        elif overlap != "buffer_one":
            _begin(session, entry, due_ms, trouble)
        elif entry.waiting_ms is None:
            session.emit(ScheduleWaits(entry.schedule.id, due_ms))
        else:
            _skip(session, entry, due_ms, f"overlap: run {entry.live[-1]} has not ended, and an earlier due time waits already")


def _begin(session: Session, entry: Entry, due_ms: int, trouble: Failure | None) -> None:
    flow = session.flows.get(entry.schedule.flow)
    if flow is None:
        _skip(session, entry, due_ms, "its flow cannot be had" if trouble is None else trouble.message)
        return
    about = f"{entry.namespace}/{entry.schedule.id}"
    run = scheduled_run_id(about, due_ms, session.state.partition, session.partitions)
    answer = start(session, entry, flow, due_ms, run, manual=False)
    if isinstance(answer, Refused):
        _skip(session, entry, due_ms, f"{answer.code} {answer.message}")
    elif answer.existing:
        _skip(session, entry, due_ms, f"run {answer.run} was started for it before")


def _skip(session: Session, entry: Entry, due_ms: int, reason: str) -> None:
    session.emit(ScheduleSkipped(entry.schedule.id, due_ms, 1, reason))


def start(session: Session, entry: Entry, flow: CompiledFlow, due_ms: int, run: RunId, *, manual: bool) -> Accepted | Refused:
    """A run of the schedule, like any that is submitted."""
    schedule = entry.schedule
    request = Submit(
        run, entry.namespace, schedule.flow, [schedule.input], schedule.variables, None, schedule.max_concurrency,
        tags={**(schedule.tags or {}), "schedule": schedule.id},
    )  # fmt: skip
    before = len(session.effects)
    submit.start_run(session, StartRun(request, flow))
    answer = _answer(session, before)
    if isinstance(answer, Accepted) and not answer.existing:
        others = [] if manual or schedule.overlap != "cancel_other" else [other for other in entry.live if other not in entry.ends]
        session.emit(ScheduleFired(schedule.id, due_ms, run, manual, [other for other in others if other in session.state.dormant]))
        for other in others:
            _end(session, other)
    return answer


def _answer(session: Session, before: int) -> Accepted | Refused:
    """What the submission was answered, which is this schedule's to know and nobody else's."""
    for index in range(before, len(session.effects)):
        effect = session.effects[index]
        if isinstance(effect, Answered) and isinstance(effect.answer, Accepted | Refused):
            del session.effects[index]
            return effect.answer
    raise AssertionError("every submission is answered")


def _end(session: Session, other: RunId) -> None:
    """A dormant run is cancelled when it is back (see dormancy.py)."""
    if other in session.state.runs:
        pausing.cancel_run(session, CancelRun(other, ENDED))
    else:
        session.cause(WakeRun(other))
