"""An item that was read back, from a snapshot, a journal or an image: what follows from its state is derived again."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.decide import functions, waits
from stepmesh_orchestrator.core.decide.demand import demand
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import AWAITING, FALLBACK, RETRYING, SLEEPING, Item


def resume_item(session: Session, item: Item) -> None:
    """Its needs and its timers; what has become possible is left to `settle`."""
    run = item.run
    for step in list(item.functions or ()):
        functions.resume(session, item, step)
    for step, phase in enumerate(item.phases):
        if phase in (RETRYING, SLEEPING):
            session.cause(SetTimer(item.wait(step).due_ms, TaskRef(run.id, item.index, step, item.attempt(step))))
        elif phase == AWAITING:
            waits.renew(session, item, step)
        elif phase == FALLBACK:
            session.work.append((item, step))
    demand(session, item, [len(item.outcomes), *run.flow.must_execute])
