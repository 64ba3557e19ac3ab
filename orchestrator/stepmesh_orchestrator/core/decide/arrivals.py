"""Code of durable functions arrives with a worker: what is blocked for want of it goes to its pool at once.

Whether that code fits is found by the worker's replay; where it does not, the function waits as before.
"""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.commands import CodeCame
from stepmesh_orchestrator.core.decide.news import activate
from stepmesh_orchestrator.core.rebuild import routed
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import PARKED, Item


def code_came(session: Session, command: CodeCame) -> None:
    """Each function that waits for code of these paths; a paused one gets it when it goes on."""
    for run in list(session.state.runs.values()):
        for item in run.items.values():
            for step, function in (item.functions or {}).items():
                if function.blocked and item.phases[step] == PARKED and _is_meant(session, item, step, command):
                    session.touched[run.tree.root] = run.tree
                    activate(session, item, step)


def _is_meant(session: Session, item: Item, step: int, command: CodeCame) -> bool:
    route = routed(session, item, step)
    return not isinstance(route, Failure) and route[0].pool == command.pool and route[0].component in command.paths
