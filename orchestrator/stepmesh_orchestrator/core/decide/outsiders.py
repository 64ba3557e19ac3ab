"""Commands of durable functions that somebody outside answers, events and promises: asked for, and asked for again; promises whose time is
over.

Invariant: one timer of a function asks for all of them again, however many there are. Knows nothing of turns.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Issued, Kind
from stepmesh_orchestrator.core.decide import waits
from stepmesh_orchestrator.core.decide.parking import wait_of
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item

KINDS = (Kind.EVENT, Kind.PROMISE)


class _Options(msgspec.Struct):
    since_ms: int | None = None
    timeout_ms: int = 0


_options = msgspec.json.Decoder(_Options)


def ask(session: Session, item: Item, step: int, command: Issued) -> None:
    """For a promise nobody is asked; but what waits for nothing else is seen to wait by its timer, and may leave memory."""
    if command.kind is Kind.EVENT:
        since_ms = _options_of(command).since_ms
        waits.stand(session, item, step, command, item.run.created_ms if since_ms is None else since_ms)
    if item.renewals is None:
        item.renewals = {}
    if item.renewals.get(step, 0) <= session.now:  # or each would set one for each
        item.renewals[step] = session.now + waits.RENEWED_MS
        session.cause(SetTimer(item.renewals[step], wait_of(item, step)))


def ask_all(session: Session, item: Item, step: int, function: Function) -> None:
    """Once more, whatever became of the letters."""
    for command in function.commands():
        if command.kind in KINDS:
            ask(session, item, step, command)


def expired(function: Function, dues: list[int]) -> list[str]:
    """Promises whose time is over with one of these timers, to the rounding of a millisecond: who settles them is told so."""
    return [one.id for one in function.commands() if _is_expired(one, dues)]


def _is_expired(command: Issued, dues: list[int]) -> bool:
    limit_ms = _options_of(command).timeout_ms if command.kind is Kind.PROMISE else 0
    return limit_ms > 0 and any(abs(command.at_ms + limit_ms - due) <= 1 for due in dues)


def _options_of(wait: Issued) -> _Options:
    return _options.decode(wait.options) if wait.options and wait.kind in KINDS else _Options()
