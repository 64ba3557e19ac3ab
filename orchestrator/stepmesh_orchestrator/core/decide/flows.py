"""Steps that waited for the flow of their sub-run, and schedules that waited for theirs."""

from __future__ import annotations

from stepmesh_orchestrator.core.commands import ResolveFlow
from stepmesh_orchestrator.core.decide import failure, firing, functions
from stepmesh_orchestrator.core.decide.progress import settle
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import FETCHING, QUEUED


def resolve_flow(session: Session, command: ResolveFlow) -> None:
    """Begin them again, or fail them with the reason why there is no such flow.

    One after the other: what waits for a step counts the outcomes to come, so each must be told before the next one is there.
    """
    for item, index in session.awaiting_flow.pop(command.key, ()):
        if not item.open or item.phases[index] != FETCHING:
            continue
        if command.failure is not None:
            failure.attempt_failed(session, item, item.run.flow.steps[index], command.failure)
            settle(session)
        else:
            item.phases[index] = QUEUED
            session.work.append((item, index))
    functions.flow_resolved(session, command.key, command.failure, command.flow)
    for schedule in session.awaiting_start.pop(command.key, ()):
        firing.look(session, schedule, command.failure)
