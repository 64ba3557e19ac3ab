"""Letting a root run go on: its pause is over, and what of it is blocked is tried again."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_orchestrator.core.commands import ResumeRun
from stepmesh_orchestrator.core.decide import pausing, versions
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.session import Session


def resume_run(session: Session, command: ResumeRun) -> None:
    """One with nothing to do stays as it is, and the answer says it. One whose version cannot be had stays as it is, too."""
    tree = session.state.trees.get(command.run)
    if tree is None:
        session.cause(Answered(pausing.refusal(session, command.run)))
        return
    moves = versions.moves(session, tree, command)
    if isinstance(moves, Refused):
        session.cause(Answered(moves))
        return
    paused = bool(tree.paused_ms)
    if paused:
        pausing.go_on(session, tree)
    for move in moves:
        versions.carry_out(session, move)
    session.cause(Answered(Accepted(tree.root, existing=not (paused or moves))))
