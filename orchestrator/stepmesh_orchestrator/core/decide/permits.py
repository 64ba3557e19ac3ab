"""The home of a key: who is let through its gate, in the order in which they came. Whoever asks again is told again.

Invariants: no more hold a permit than the rule's limit, and none waits while it could be let through, but for the time that the rule
sets. A permit is given back by the run's end, and asked for by nothing else; so what was lost on the way is told again after a
recovery, and a partition that has no such run any more says so. What was asked before a partition told of the end of any run may be a
late copy of what that run asked: it counts when the partition has confirmed it.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitCheck, PermitGrant, PermitReturn, PermitRevoke
from stepmesh_orchestrator.core.commands import ServeKeys
from stepmesh_orchestrator.core.decide import breakers, keys
from stepmesh_orchestrator.core.effects import CallKeys
from stepmesh_orchestrator.core.gate_events import GONE_AWAY, HOLDS, REVOKED, PermitAsked, PermitDoubted, PermitMoved
from stepmesh_orchestrator.core.gates import CANCEL_PREVIOUS, SKIP, KeyPermits, Rule
from stepmesh_orchestrator.core.session import Session


def ask(session: Session, letter: PermitAsk) -> None:
    """A run wants to begin."""
    key, run = letter.key, letter.run
    known = session.state.permits.keys.get(key)
    if known is not None and known.counts(run):
        if letter.position > session.state.permits.asked.get(key, {}).get(run, 0):
            session.emit(PermitAsked(key, known.rule, run, letter.partition, letter.position))
        _tell(session, key, known, run)
        return
    if letter.position and letter.position < session.state.permits.passed.get(letter.partition, 0):
        _doubt(session, letter)
        return
    rule = msgspec.convert(letter.rule, Rule)
    session.emit(PermitAsked(key, rule, run, letter.partition, letter.position))
    found = session.state.permits.keys[key]
    if rule.period_ms:
        _revoke(session, key, [one for one in found.waiting if one != run])
    elif rule.policy == SKIP and (not found.has_room() or len(found.waiting) > 1):
        _revoke(session, key, [run])
        for holder in found.holders:  # nobody waits, so nobody else asks after one whose last word was lost
            _tell(session, key, found, holder)
    elif rule.policy == CANCEL_PREVIOUS:
        _revoke(session, key, [one for one in (*found.waiting, *found.holders) if one != run and one not in found.revoked])
    serve(session, key)


def returned(session: Session, letter: PermitReturn) -> None:
    """The run is over, or never was. An attempt that was not wanted any more, and asked again behind it, is not."""
    permits, partition = session.state.permits, letter.partition
    if 0 < letter.position < permits.asked.get(letter.key, {}).get(letter.run, 0):
        return
    found = permits.keys.get(letter.key)
    is_known = (found is not None and found.counts(letter.run)) or letter.run in permits.doubted.get(letter.key, ())
    is_news = letter.position > permits.passed.get(partition, 0)
    if is_known or is_news:
        session.emit(PermitMoved(letter.key, letter.run, GONE_AWAY, partition, letter.position if is_news else 0))
        serve(session, letter.key)


def serve(session: Session, key: str) -> None:
    """Let through who may go now."""
    while (found := session.state.permits.keys.get(key)) is not None and found.waiting and found.has_room():
        opens_ms = found.opens_ms()
        if opens_ms > session.now:
            session.cause(CallKeys(opens_ms, key))
            return
        run, partition = next(iter(found.waiting.items()))
        session.emit(PermitMoved(key, run, HOLDS))
        keys.tell(session, partition, PermitGrant(key, run))


def serve_keys(session: Session, command: ServeKeys) -> None:
    """Some time has come, or the home is another process now."""
    if command.key:
        serve(session, command.key)
        return
    breakers.serve(session)
    if command.key is not None:
        return
    for key, found in list(session.state.permits.keys.items()):
        if command.again and (found.is_full() or not command.full):
            for run in (*found.holders, *found.revoked):
                _tell(session, key, found, run)
        serve(session, key)
    if command.again:
        _check_again(session)


def _tell(session: Session, key: str, found: KeyPermits, run: RunId) -> None:
    if run in found.revoked:
        keys.tell(session, found.revoked[run], PermitRevoke(key, run, _reason(found)))
    elif run in found.holders:
        keys.tell(session, found.holders[run], PermitGrant(key, run))


def _doubt(session: Session, letter: PermitAsk) -> None:
    if letter.run not in session.state.permits.doubted.get(letter.key, ()):
        session.emit(PermitDoubted(letter.key, letter.run, letter.partition))
    _check(session, letter.key, letter.run, letter.partition)


def _check_again(session: Session) -> None:
    for key, doubted in session.state.permits.doubted.items():
        for run, partition in doubted.items():
            _check(session, key, run, partition)


def _check(session: Session, key: str, run: RunId, partition: Partition) -> None:
    keys.tell(session, partition, PermitCheck(key, run, session.state.permits.passed.get(partition, 0)))


def _revoke(session: Session, key: str, runs: list[RunId]) -> None:
    for run in runs:
        found = session.state.permits.keys[key]
        session.emit(PermitMoved(key, run, REVOKED))
        _tell(session, key, found, run)


def _reason(found: KeyPermits) -> str:
    if found.rule.period_ms:
        return "debounce: a later run came before its time"
    return "singleton: another run has its place" if found.rule.policy == SKIP else "singleton: a later run came in its place"
