"""Pausing a root run with its sub-runs, and letting it go on.

A paused tree has no slot to give, so what is ready stays queued, and no item starts; what is in flight ends and counts. Timers that ring
meanwhile are ignored and set again when the tree goes on: due at once if their time has come, never early.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_orchestrator.core.commands import CancelRun, PauseRun
from stepmesh_orchestrator.core.decide import cancel
from stepmesh_orchestrator.core.decide.resume import resume_item
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.events import RunPaused, RunResumed
from stepmesh_orchestrator.core.evolve.dormancy import runs_of
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Run, Tree


def pause_run(session: Session, command: PauseRun) -> None:
    """One that is paused stays so, and the answer says it."""
    tree = session.state.trees.get(command.run)
    if tree is None:
        session.cause(Answered(refusal(session, command.run)))
        return
    paused = bool(tree.paused_ms)
    if not paused:
        session.emit(RunPaused(tree.root, command.reason))
    session.cause(Answered(Accepted(tree.root, existing=paused)))


def cancel_run(session: Session, command: CancelRun) -> None:
    """A run that is over already stays as it is, and the answer says so."""
    run = session.state.runs.get(command.run)
    if run is not None:
        ask_to_end(session, run, command.reason or "cancelled", force=command.force)
        session.cause(Answered(Accepted(command.run)))
    elif command.run not in session.state.dormant and cancel.has_ended(session, command.run):
        session.cause(Answered(Accepted(command.run, existing=True)))
    else:
        session.cause(Answered(cancel.not_live(session, command.run)))


def ask_to_end(session: Session, run: Run, reason: str, *, force: bool = False) -> None:
    """See `cancel.ask_to_end`. Where durable functions are to clean up, that ends a pause: all else of the run starts no more."""
    cancel.ask_to_end(session, run, reason, force=force)
    tree = run.tree
    if tree.paused_ms and tree.root in tree.cancelling:
        go_on(session, tree)


def go_on(session: Session, tree: Tree) -> None:
    """Its pause is over."""
    session.emit(RunResumed(tree.root))
    session.touched[tree.root] = tree
    for run in runs_of(session.state, tree):
        for item in list(run.items.values()):
            resume_item(session, item)  # what it waits for already is not asked for twice, but its timers are set


def refusal(session: Session, name: RunId) -> Refused:
    """Why the run is no tree that may be paused, or let go on."""
    run = session.state.runs.get(name)
    if run is not None:
        root = run.tree.root
        return Refused("SM-5220", f"run {name} is a sub-run, and a tree is paused as a whole", f"name its root run {root}")
    if name not in session.state.dormant and cancel.has_ended(session, name):
        return Refused("SM-5221", f"run {name} is over", "`stepmesh retry` and `stepmesh fork` make a new run of an ended one")
    return cancel.not_live(session, name)
