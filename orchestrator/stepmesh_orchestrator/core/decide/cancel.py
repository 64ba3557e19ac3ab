"""Cancelling: a run, its sub-runs first. Nothing of it starts any more, no result of it counts, workers are told."""

from __future__ import annotations

from collections.abc import Iterator

from stepmesh_broker.protocol.histories import CancelAsked
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Refused, TaskRef
from stepmesh_orchestrator.core.decide import finish, places, waits
from stepmesh_orchestrator.core.decide.news import tell
from stepmesh_orchestrator.core.effects import StopTask
from stepmesh_orchestrator.core.events import ItemEnded, RunCancelled
from stepmesh_orchestrator.core.function_events import HistoryGrew, RunCancelling
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import DELETED, RUNNING, Item, Run, Tree


def ask_to_end(session: Session, run: Run, reason: str, *, force: bool = False) -> None:
    """Its durable functions may clean up first, unless by force; a second time is as once."""
    told = [] if force else list(_functions(session, run))
    if not told:
        stop(session, run, reason)
    elif run.id not in run.tree.cancelling:
        session.emit(RunCancelling(run.id, reason))
        for item, step in told:
            if not _was_told(item, step):  # with a run above it, or below: a second time would end what it does at its end
                session.emit(HistoryGrew(item.run.id, item.index, step, [CancelAsked(session.now, reason)]))
                tell(session, item, step)


def _was_told(item: Item, step: int) -> bool:
    function = item.function(step)
    return function is not None and any(isinstance(record, CancelAsked) for record in function.records)


def function_ended(session: Session, tree: Tree) -> None:
    """Runs that are to be cancelled, and have waited for a function, may be cancelled now."""
    for id, reason in list(tree.cancelling.items()):
        run = session.state.runs.get(id)
        if run is not None and not any(_functions(session, run)):
            stop(session, run, reason)


def reason_of(session: Session, run: Run) -> str | None:
    """Why the run is being cancelled, itself or with one above it; None when it is not. What a function set going is for it to end."""
    cancelling, over = run.tree.cancelling, run
    while over.id not in cancelling:
        parent = over.parent
        above = None if parent is None or parent.kind == "function" else session.state.runs.get(parent.run)
        if above is None:  # also of a worker's sub-run that outlived its parent
            return None
        over = above
    return cancelling[over.id]


def holds(session: Session, run: Run) -> bool:
    """Whether the run is being cancelled: nothing of it begins or ends by itself any more, for it ends as cancelled."""
    return bool(run.tree.cancelling) and reason_of(session, run) is not None


def tell_late(session: Session, item: Item, step: int) -> None:
    """A step that proves to be a durable function, or begins anew, while its run is being cancelled."""
    reason = reason_of(session, item.run) if item.run.tree.cancelling else None
    if reason is not None:
        session.emit(HistoryGrew(item.run.id, item.index, step, [CancelAsked(session.now, reason)]))


def _functions(session: Session, run: Run) -> Iterator[tuple[Item, int]]:
    """Durable functions of the run and below it that can clean up: not those that their code cannot go on with."""
    for child in run.children or ():
        yield from _functions(session, session.state.runs[child])
    for item in run.items.values():
        for step in item.functions or ():
            function = item.function(step)
            if function is not None and not function.blocked:
                yield item, step


def not_live(session: Session, run: RunId) -> Refused:
    """Why nothing can be done to a run that is not in memory, and of which it is not known that it ended."""
    if run in session.state.dormant:
        return Refused("SM-5120", f"run {run} is dormant and is not in memory yet", "ask for it again")
    return Refused("SM-5003", f"no live run {run} here", "`stepmesh list` shows the runs")


def has_ended(session: Session, run: RunId) -> bool:
    """Whether it is remembered that the run ended."""
    ended = session.state.finished.get(run)
    if ended is not None:
        return ended[1] != DELETED
    return any(run in tree.ended for tree in session.state.trees.values())


def stop(session: Session, run: Run, reason: str) -> None:
    """End the run and all below it as cancelled."""
    for child in list(run.children or ()):
        stop(session, session.state.runs[child], reason)
    session.emit(RunCancelled(run.id, reason))
    failure = Failure(ErrorCode.CANCELLED, reason)
    for item in list(run.items.values()):
        _stop_tasks(session, item)
        places.leave_all(session, item)
        waits.give_up_all(session, item)
        session.emit(ItemEnded(run.id, item.index, None, failure))
    finish.try_end_run(session, run)


def _stop_tasks(session: Session, item: Item) -> None:
    for step, phase in enumerate(item.phases):
        if phase == RUNNING:
            session.cause(StopTask(TaskRef(item.run.id, item.index, step, item.attempt(step))))
