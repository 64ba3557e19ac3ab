"""Breakers: a component that says again and again that what it needs is not available is left alone for a while, then tried by one attempt.

Invariants: while a breaker is open nothing of its component is dispatched but one canary, once its pause is over; what waits spends no
retries, and holds no place of its pool. When a breaker is open is decided by events; the outcomes that lead to it, who waits and who is
the canary follow from what happens, and begin anew after a recovery.
"""

from __future__ import annotations

from collections import deque

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.decide.step_keys import asker
from stepmesh_orchestrator.core.effects import CallKeys
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.gate_events import BreakerMoved
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item

OUTCOMES = 20
"""The last ones of a component, of which half must be bad, and at least as many as the settings say."""
FIRST_MS, MOST_MS = 10_000, 600_000
"""Pauses: the first, doubled by each canary that fails, and the longest."""
_UNHEARD = frozenset((ErrorCode.UNREACHABLE, ErrorCode.TIMEOUT))


def name_of(step: CompiledStep) -> str:
    """What the breaker of a step's component is called."""
    return step.component if step.pool is None else f"{step.component} in {step.pool}"


def holds_back(session: Session, item: Item, step: CompiledStep) -> bool:
    """Whether the attempt waits for the breaker of its component; the first one after the pause is the canary."""
    name, who = name_of(step), asker(item, step.index)
    breaker = session.state.permits.breakers.get(name)
    if breaker is None or session.canaries.get(name) == who:
        return False
    if name not in session.canaries and breaker.due_ms <= session.now:
        session.canaries[name] = who
        return False
    session.held_back.setdefault(name, {})[who] = (item, step.index)
    item.run.tree.promised += 1
    return True


def succeeded(session: Session, step: CompiledStep) -> None:
    """What the component needs is there."""
    name = name_of(step)
    if name in session.state.permits.breakers:
        _close(session, name)
    outcomes = session.troubles.get(name)
    if outcomes is not None:
        outcomes.append(True)
        if all(outcomes):
            del session.troubles[name]


def failed(session: Session, step: CompiledStep, code: int, who: RunId) -> None:
    """An attempt failed, before it is decided what comes of that."""
    name = name_of(step)
    if code != ErrorCode.RESOURCE_UNAVAILABLE:
        if code not in _UNHEARD:
            succeeded(session, step)
        elif session.canaries.get(name) == who:
            del session.canaries[name]
            serve(session)
        return
    breaker = session.state.permits.breakers.get(name)
    if breaker is None:
        _count(session, name)
    elif session.canaries.get(name) == who:
        del session.canaries[name]
        _open(session, name, min(2 * breaker.pause_ms, MOST_MS))


def _count(session: Session, name: str) -> None:
    outcomes = session.troubles.setdefault(name, deque(maxlen=OUTCOMES))
    outcomes.append(False)
    bad = outcomes.count(False)
    if session.settings.breaker_after and bad >= session.settings.breaker_after and 2 * bad >= len(outcomes):
        _open(session, name, FIRST_MS)


def _open(session: Session, name: str, pause_ms: int) -> None:
    session.emit(BreakerMoved(name, pause_ms, session.now + pause_ms))
    _call(session)


def _call(session: Session) -> None:
    """When the next pause is over."""
    dues = [breaker.due_ms for breaker in session.state.permits.breakers.values() if breaker.due_ms > session.now]
    if dues:
        session.cause(CallKeys(min(dues)))


def _close(session: Session, name: str) -> None:
    session.emit(BreakerMoved(name))
    session.canaries.pop(name, None)
    session.troubles.pop(name, None)
    for item, step in session.held_back.pop(name, {}).values():
        _give_slot_back(session, item)
        session.work.append((item, step))


def serve(session: Session) -> None:
    """Send a canary for each breaker whose pause is over, if somebody waits for it."""
    for name, breaker in session.state.permits.breakers.items():
        waiting = session.held_back.get(name)
        if breaker.due_ms <= session.now and waiting and name not in session.canaries:
            who = next(iter(waiting))
            item, step = waiting.pop(who)
            session.canaries[name] = who
            _give_slot_back(session, item)
            session.work.append((item, step))
    _call(session)


def _give_slot_back(session: Session, item: Item) -> None:
    """The one that was kept for an attempt. It may not need it: one whose sub-runs live takes none."""
    tree = item.run.tree
    tree.promised -= 1
    session.touched[tree.root] = tree


def leave(session: Session, item: Item, step: int) -> None:
    """The attempt goes no further, or waits for something else: it is held back no more, and no canary."""
    name, who = name_of(item.run.flow.steps[step]), asker(item, step)
    if session.held_back.get(name, {}).pop(who, None) is not None:
        _give_slot_back(session, item)
    if session.canaries.get(name) == who:
        del session.canaries[name]
        serve(session)
