"""Appliers of step events. Each takes a step from one phase to the next and gives its slot back when it held one."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome
from stepmesh_orchestrator.core.state import AWAITING, DONE, FALLBACK, RETRYING, RUNNING, SLEEPING, Item, State


def dispatched(state: State, event: events.StepDispatched, at_ms: int) -> None:
    """An attempt is in flight: it holds a slot."""
    run = state.runs[event.run]
    item = run.items[event.item]
    step = event.step
    item.phases[step] = RUNNING
    item.positions[step] = state.at
    if item.waits is None or item.holds_slot(step):  # without waits a running step always does
        run.tree.in_flight += 1
    if not item.times[step << 1]:
        item.times[step << 1] = at_ms


def succeeded(state: State, event: events.StepSucceeded, at_ms: int) -> None:
    """The outcome is the output."""
    run = state.runs[event.run]
    item = run.items[event.item]
    step = event.step
    phases = item.phases
    if phases[step] == RUNNING and (item.waits is None or item.holds_slot(step)):
        run.tree.in_flight -= 1
    phases[step] = DONE
    item.outcomes[step] = event.output
    item.positions[step] = state.at
    item.times[(step << 1) + 1] = at_ms


def failed(state: State, event: events.StepFailed, at_ms: int) -> None:
    """The outcome is the failure."""
    _end(state, event.run, event.item, event.step, event.failure, at_ms)


def defaulted(state: State, event: events.StepDefaulted, at_ms: int) -> None:
    """The outcome is the default; the failure stays on record."""
    item = _end(state, event.run, event.item, event.step, event.output, at_ms)
    item.wait(event.step).last_failure = event.failure


def skipped(state: State, event: events.StepSkipped, at_ms: int) -> None:
    """There is no result."""
    _end(state, event.run, event.item, event.step, SKIPPED, at_ms)


def retrying(state: State, event: events.StepRetrying, at_ms: int) -> None:
    """The slot is free; the budget is one smaller; the next attempt has its number."""
    item = leave(state, event.run, event.item, event.step)
    item.phases[event.step] = RETRYING
    wait = item.wait(event.step)
    wait.attempt = event.attempt + 1
    wait.due_ms = event.due_ms
    wait.last_failure = event.failure
    wait.child = None
    wait.iteration = 0
    if event.transport:
        wait.transport_used += 1
    else:
        wait.component_used += 1
        if item.functions is not None:
            item.functions.pop(event.step, None)  # it begins anew


def sleeping(state: State, event: events.StepSleeping, at_ms: int) -> None:
    """A durable timer runs."""
    item = leave(state, event.run, event.item, event.step)
    item.phases[event.step] = SLEEPING
    wait = item.wait(event.step)
    wait.due_ms = event.due_ms
    wait.output = event.output
    item.times[event.step << 1] = item.times[event.step << 1] or at_ms


def awaiting(state: State, event: events.StepAwaiting, at_ms: int) -> None:
    """Only somebody outside, or the time, moves it on."""
    item = leave(state, event.run, event.item, event.step)
    item.phases[event.step] = AWAITING
    wait = item.wait(event.step)
    wait.due_ms = event.due_ms
    wait.output = event.awaited
    item.times[event.step << 1] = item.times[event.step << 1] or at_ms


def falling_back(state: State, event: events.StepFallingBack, at_ms: int) -> None:
    """The slot is free; the failure waits for its default."""
    item = leave(state, event.run, event.item, event.step)
    item.phases[event.step] = FALLBACK
    item.wait(event.step).last_failure = event.failure


def woken(state: State, event: events.StepWoken, at_ms: int) -> None:
    """Its sleep is due."""
    item = leave(state, event.run, event.item, event.step)
    item.wait(event.step).due_ms = at_ms


def sub_run_started(item: Item, step: int) -> None:
    """The step's component started a sub-run: the slot is for that one."""
    if item.holds_slot(step):
        item.run.tree.in_flight -= 1
    item.wait(step).sub_runs += 1


def sub_run_ended(item: Item, step: int) -> None:
    """A sub-run that the step's component started is over: with the last one the step takes its slot again."""
    wait = item.wait(step)
    wait.sub_runs = max(0, wait.sub_runs - 1)
    if not wait.sub_runs and item.holds_slot(step):
        item.run.tree.in_flight += 1


def leave(state: State, run_id: RunId, index: int, step: int) -> Item:
    """The step gives its slot back, if it held one."""
    run = state.runs[run_id]
    item = run.items[index]
    if item.holds_slot(step):
        run.tree.in_flight -= 1
    item.positions[step] = state.at
    return item


def _end(state: State, run_id: RunId, index: int, step: int, outcome: Outcome, at_ms: int) -> Item:
    item = leave(state, run_id, index, step)
    item.phases[step] = DONE
    item.outcomes[step] = outcome
    item.times[(step << 1) + 1] = at_ms
    return item
