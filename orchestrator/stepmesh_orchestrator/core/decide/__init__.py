"""Commands → events and effects. One table; one file per kind of decision; nothing here does I/O or knows the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepmesh_orchestrator.core import commands
from stepmesh_orchestrator.core.decide import (
    addresses,
    arrivals,
    asking,
    delete,
    dormancy,
    firing,
    flows,
    functions,
    letters,
    pausing,
    permits,
    results,
    resuming,
    schedules,
    settling,
    submit,
    timers,
)
from stepmesh_orchestrator.core.decide.progress import settle
from stepmesh_orchestrator.core.session import Session

_DECIDERS: dict[type, Callable[[Session, Any], None]] = {
    commands.EndTask: results.end_task,
    commands.AdvanceFunction: functions.advance,
    commands.UpdateFunction: asking.update_function,
    commands.CodeCame: arrivals.code_came,
    commands.FailAttempt: results.fail_attempt,
    commands.StartRun: submit.start_run,
    commands.FireTimer: timers.fire,
    commands.CancelRun: pausing.cancel_run,
    commands.DeleteRun: delete.delete_run,
    commands.ResolveFlow: flows.resolve_flow,
    commands.RestTree: dormancy.rest_tree,
    commands.WakeTree: dormancy.wake_tree,
    commands.TakeLetter: letters.take_letter,
    commands.AskAgain: letters.ask_again,
    commands.KeepEvent: addresses.keep_event,
    commands.SettleWait: settling.settle_wait,
    commands.PauseRun: pausing.pause_run,
    commands.ResumeRun: resuming.resume_run,
    commands.WakeSteps: timers.wake_steps,
    commands.PutSchedule: schedules.put_schedule,
    commands.DeleteSchedule: schedules.delete_schedule,
    commands.PauseSchedule: schedules.pause_schedule,
    commands.ResumeSchedule: schedules.resume_schedule,
    commands.TriggerSchedule: schedules.trigger_schedule,
    commands.BackfillSchedule: schedules.backfill_schedule,
    commands.FireSchedule: firing.fire_schedule,
    commands.ServeKeys: permits.serve_keys,
}


def decide(session: Session, command: commands.Command) -> None:
    """Decide on one command and on all that follows from it; the events are in `session.events`, applied."""
    _DECIDERS[type(command)](session, command)
    settle(session)


__all__ = ["decide", "settle"]
