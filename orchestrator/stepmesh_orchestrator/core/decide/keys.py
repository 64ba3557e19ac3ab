"""Between runs and the homes of their keys: letters, and the way back of what a run held.

What is for this partition is decided at once, in the same frame, unless it is for a run that must be brought back into memory first.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import Partition, RunId, partition_of
from stepmesh_broker.protocol.permit_letters import PermitLetter, PermitReturn, PermitRevoke
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.flow.plan import Plan, PlanFailed, PlanSkipped, Scope
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Run

LONGEST_KEY = 200
"""Characters of a key's value."""


class BadKey(Exception):
    """A key cannot be told from the input."""


def value_of(plan: Plan | None, scope: Scope, kind: str) -> str:
    """The value of a key's expression, as people read it; "" without one. Raises `BadKey`."""
    if plan is None:
        return ""
    try:
        shown = plan.render(scope).decode().strip('"')
    except (PlanFailed, PlanSkipped) as problem:
        why = problem.failure.message if isinstance(problem, PlanFailed) else "it is skipped"
        raise BadKey(f"the key of `{kind}` has no value: {why}") from problem
    if len(shown) > LONGEST_KEY:
        raise BadKey(f"the key of `{kind}` has {len(shown)} characters, more than {LONGEST_KEY}")
    return shown


def tell(session: Session, partition: Partition, letter: PermitLetter) -> None:
    """To another one's inbox, or to this one's list of what is to be decided next."""
    if partition == session.state.partition and not (isinstance(letter, PermitRevoke) and letter.run in session.state.dormant):
        session.letters.append(letter)
    else:
        session.cause(Send(partition, letter))


def home_of(session: Session, key: str) -> Partition:
    """The partition that keeps the key."""
    return partition_of(key, session.partitions)


def give_back(session: Session, run: Run) -> None:
    """The run has ended, before its gates or behind them."""
    for gate in (run.gates or [])[: run.gates_open + 1]:
        tell_gone(session, gate.key, run.id)


def tell_gone(session: Session, key: str, asker: RunId) -> None:
    """To the key's home: the run, or the attempt of a step, is over. Everything that it asked was asked before this position."""
    tell(session, home_of(session, key), PermitReturn(key, asker, session.state.partition, position_for(session, key)))


def position_for(session: Session, key: str, at_least: int = 0) -> int:
    """How far this partition is, for the home of a key; 0 when that is here, where letters are decided on at once."""
    return 0 if home_of(session, key) == session.state.partition else max(session.state.at, at_least)
