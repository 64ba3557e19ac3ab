"""Letters of partitions: which decision each kind is for. A letter may be late, or a copy: who takes it looks at the state first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.letters import Deliver, Letter, Subscribe, Unsubscribe
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitCheck, PermitGrant, PermitReturn, PermitRevoke
from stepmesh_orchestrator.core.commands import AskAgain, TakeLetter
from stepmesh_orchestrator.core.decide import addresses, gates, permits, waits
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import AWAITING

_DECIDERS: dict[type, Callable[[Session, Any], None]] = {
    Subscribe: addresses.subscribe,
    Unsubscribe: addresses.unsubscribe,
    Deliver: waits.deliver,
    PermitAsk: permits.ask,
    PermitReturn: permits.returned,
    PermitGrant: gates.granted,
    PermitRevoke: gates.revoked,
    PermitCheck: gates.checked,
}


def take_letter(session: Session, command: TakeLetter) -> None:
    """By its kind."""
    _DECIDERS[type(command.letter)](session, command.letter)


def ask_again(session: Session, command: AskAgain) -> None:
    """Of steps of flows that are in memory; all else asks again by its time."""
    for run in session.state.runs.values():
        for item in run.items.values():
            for step, phase in enumerate(item.phases):
                if phase == AWAITING:
                    waits.ask(session, item, step)
    addresses.tell_again(session)


def addressee(letter: Letter) -> RunId | None:
    """The run that must be in memory for it, if it is of this partition."""
    return letter.waiter.run if isinstance(letter, Deliver) else letter.run if isinstance(letter, PermitRevoke) else None
