"""Why a turn of a durable function is not taken: what its worker is told, for people to read. It changes nothing."""

from __future__ import annotations

from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import RUNNING


def refused(session: Session, turn: FunctionTurn, why: str = "") -> FunctionTurned:
    """The answer, with where the function stands here. `why`: default, what the state says of the turn's activation."""
    task = turn.task
    run = session.state.runs.get(task.run)
    item = None if run is None else run.items.get(task.item)
    if item is None or not 0 <= task.step < len(item.outcomes):
        return FunctionTurned(gone=True, why=why or "the run, or its item, is over or rests")
    function, attempt = item.function(task.step), item.attempt(task.step)
    if attempt != task.attempt:
        why = why or f"activation {attempt} has taken its place"
    elif item.phases[task.step] != RUNNING:
        why = why or "the step is over, or with no worker"
    return FunctionTurned(gone=True, why=why, activation=attempt, known=0 if function is None else len(function.records))
