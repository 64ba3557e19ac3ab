"""Deleting an ended run: what is left of it here is the memory that it was, which makes a late submission of it harmless."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_orchestrator.core.commands import DeleteRun
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.events import RunDeleted
from stepmesh_orchestrator.core.session import Session


def delete_run(session: Session, command: DeleteRun) -> None:
    """Refused while the root, or a sub-run that outlived it, is live."""
    if command.run in session.state.trees or command.run in session.state.dormant:
        message = f"run {command.run} has not ended, or one of its sub-runs has not"
        session.cause(Answered(Refused("SM-5012", message, "cancel it first, or wait for its end")))
        return
    session.emit(RunDeleted(command.run, command.keyed))
    session.cause(Answered(Accepted(command.run)))
