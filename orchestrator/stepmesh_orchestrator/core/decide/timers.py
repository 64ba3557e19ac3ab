"""Timers that came due: the next attempt of a retry, the end of a sleep. A timer whose wait is gone is nothing. Sleeps that end early."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Accepted, TaskRef
from stepmesh_orchestrator.core.commands import FireTimer, WakeSteps
from stepmesh_orchestrator.core.decide import cancel, functions, results, waits
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.events import StepWoken
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import AWAITING, QUEUED, RETRYING, SLEEPING, Item


def fire(session: Session, command: FireTimer) -> None:
    """Only the wait that set the timer hears it, and never before its time."""
    task = command.task
    if not task.attempt:
        functions.fire(session, task)
        return
    run = session.state.runs.get(task.run)
    item = run.items.get(task.item) if run is not None else None
    if item is None or item.attempt(task.step) != task.attempt or item.run.tree.paused_ms:
        return  # a paused tree sets its timers again when it goes on
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


def wake_steps(session: Session, command: WakeSteps) -> None:
    """A sleep that is over already is as good as woken: whoever asks twice is answered twice. A paused tree stays paused."""
    run = command.run
    if run not in session.state.runs and (run in session.state.dormant or not cancel.has_ended(session, run)):
        session.cause(Answered(cancel.not_live(session, run)))
        return
    woken = [task for task in command.tasks if task.run == run and _wake(session, task)]
    session.cause(Answered(Accepted(run, existing=not woken)))


def _wake(session: Session, task: TaskRef) -> bool:
    item = _asleep(session, task)
    if item is None or item.wait(task.step).due_ms <= session.now:  # its time has come anyway
        return False
    session.emit(StepWoken(task.run, task.item, task.step))
    if not item.run.tree.paused_ms:
        results.complete(session, item, task.step, item.wait(task.step).output or b"null")
    return True


def _asleep(session: Session, task: TaskRef) -> Item | None:
    run = session.state.runs.get(task.run)
    item = run.items.get(task.item) if run is not None else None
    if item is None or not 0 <= task.step < len(item.outcomes) or item.phases[task.step] != SLEEPING:
        return None
    return item if item.attempt(task.step) == task.attempt else None
