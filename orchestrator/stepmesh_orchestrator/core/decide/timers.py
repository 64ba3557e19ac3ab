"""Timers that came due: the next attempt of a retry, the end of a sleep. A timer whose wait is gone is nothing."""

from __future__ import annotations

from stepmesh_orchestrator.core.commands import FireTimer
from stepmesh_orchestrator.core.decide import functions, results, waits
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import AWAITING, QUEUED, RETRYING, SLEEPING


def fire(session: Session, command: FireTimer) -> None:
    """Only the wait that set the timer hears it, and never before its time."""
    task = command.task
    if not task.attempt:
        functions.fire(session, task)
        return
    run = session.state.runs.get(task.run)
    item = run.items.get(task.item) if run is not None else None
    if item is None or item.attempt(task.step) != task.attempt:
        return
    phase = item.phases[task.step]
    if phase == AWAITING:
        waits.ring(session, item, task.step)
        return
    if phase not in (RETRYING, SLEEPING) or item.wait(task.step).due_ms > session.now:
        return
    if phase == SLEEPING:
        results.complete(session, item, task.step, item.wait(task.step).output or b"null")
    else:
        item.phases[task.step] = QUEUED
        session.work.append((item, task.step))
