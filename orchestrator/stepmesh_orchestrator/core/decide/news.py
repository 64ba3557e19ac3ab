"""A durable function has news: a command of it has its result, and its worker is told, or it goes to one."""

from __future__ import annotations

from stepmesh_broker.protocol.histories import Settled
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.decide import hearing
from stepmesh_orchestrator.core.effects import NudgeTask
from stepmesh_orchestrator.core.function_events import HistoryGrew
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import PARKED, QUEUED, RUNNING, Item


def settle(session: Session, item: Item, step: int, result: Settled) -> None:
    """What came of a command, unless nobody waits for it any more."""
    function = item.function(step)
    if function is None or result.id not in function.open:
        return
    session.emit(HistoryGrew(item.run.id, item.index, step, [result]))
    hearing.settled(item, step)
    tell(session, item, step)


def tell(session: Session, item: Item, step: int) -> None:
    """A function that its code cannot go on with waits for other code. One that is queued, or is to be tried again, gets all then."""
    phase, function = item.phases[step], item.function(step)
    if phase == RUNNING:
        session.cause(NudgeTask(TaskRef(item.run.id, item.index, step, item.attempt(step))))
    elif phase == PARKED and function is not None and not function.blocked:
        activate(session, item, step)


def activate(session: Session, item: Item, step: int) -> None:
    """Hand an idle function to its pool, when there is a slot."""
    item.phases[step] = QUEUED
    session.work.append((item, step))
