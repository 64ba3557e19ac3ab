"""Appliers: (state, event, time) → state, the only writers. One table; an applier of a released event never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepmesh_orchestrator.core import events, function_events, gate_events, schedule_events
from stepmesh_orchestrator.core.evolve import addresses, control, dormancy, functions, gates, runs, schedules, steps
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.state import State

STEPS: dict[type, Callable[[State, Any, int], None]] = {
    events.StepDispatched: steps.dispatched,
    events.StepSucceeded: steps.succeeded,
    events.StepFailed: steps.failed,
    events.StepDefaulted: steps.defaulted,
    events.StepSkipped: steps.skipped,
    events.StepRetrying: steps.retrying,
    events.StepSleeping: steps.sleeping,
    events.StepFallingBack: steps.falling_back,
    function_events.HistoryGrew: functions.history_grew,
    function_events.FunctionIdle: functions.function_idle,
    function_events.FunctionContinued: functions.function_continued,
    function_events.FunctionTookOver: functions.function_took_over,
    function_events.FunctionUnwound: functions.function_unwound,
    function_events.FunctionResumed: functions.function_resumed,
    events.StepAwaiting: steps.awaiting,
    events.StepWoken: steps.woken,
}
"""Of step events."""
_APPLIERS: dict[type, Callable[[State, Any, int], None]] = {
    **STEPS,
    events.ItemStarted: runs.item_started,
    events.ItemEnded: runs.item_ended,
    events.RunEnded: runs.run_ended,
    events.RunCancelled: runs.run_cancelled,
    events.RunDeleted: runs.run_deleted,
    function_events.RunCancelling: runs.run_cancelling,
    events.TreeDormant: dormancy.tree_dormant,
    events.EventReceived: addresses.event_received,
    events.WaiterPlaced: addresses.waiter_placed,
    events.WaiterLeft: addresses.waiter_left,
    events.WaitOver: addresses.wait_over,
    events.RunPaused: control.run_paused,
    events.RunResumed: control.run_resumed,
    events.RunSeeded: control.run_seeded,
    function_events.FunctionsSeeded: functions.functions_seeded,
    schedule_events.ScheduleSet: schedules.schedule_set,
    schedule_events.ScheduleDeleted: schedules.schedule_deleted,
    schedule_events.ScheduleFired: schedules.schedule_fired,
    schedule_events.ScheduleSkipped: schedules.schedule_skipped,
    schedule_events.ScheduleWaits: schedules.schedule_waits,
    gate_events.RunHeld: gates.run_held,
    gate_events.RunReleased: gates.run_released,
    gate_events.PermitAsked: gates.permit_asked,
    gate_events.PermitMoved: gates.permit_moved,
    gate_events.BreakerMoved: gates.breaker_moved,
    gate_events.PermitDoubted: gates.permit_doubted,
}


def evolve(state: State, event: events.Event, at_ms: int, flows: FlowLookup) -> None:
    """Apply one event of a turn at `at_ms`. `flows` is asked for the compiled flows of created and woken runs, which must be loaded."""
    if type(event) is events.RunCreated:
        runs.run_created(state, event, at_ms, flows)
    elif type(event) is events.TreeWoken:
        dormancy.tree_woken(state, event, at_ms, flows)
    else:
        _APPLIERS[type(event)](state, event, at_ms)


__all__ = ["STEPS", "FlowLookup", "evolve"]
