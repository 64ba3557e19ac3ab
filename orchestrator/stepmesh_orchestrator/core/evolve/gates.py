"""Appliers of the events of gates: of runs that wait at them, and of the permits that the home of a key gives."""

from __future__ import annotations

from typing import TypeVar

from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.core import gate_events
from stepmesh_orchestrator.core.gates import Breaker, KeyPermits
from stepmesh_orchestrator.core.state import State, may_have_room

_T = TypeVar("_T")


def run_held(state: State, event: gate_events.RunHeld, at_ms: int) -> None:
    """Nothing of it starts."""
    run = state.runs[event.run]
    run.gates = event.gates
    run.tree.is_held = True


def run_released(state: State, event: gate_events.RunReleased, at_ms: int) -> None:
    """One gate is open; with the last one the run begins."""
    run = state.runs[event.run]
    run.gates_open += 1
    if run.gates is not None and run.gates_open == len(run.gates):
        run.tree.is_held = False
        if run.next_item < run.total:
            may_have_room(run)


def permit_asked(state: State, event: gate_events.PermitAsked, at_ms: int) -> None:
    """The run waits, behind all others. The rule is that of who came last."""
    permits = state.permits
    found = permits.keys.get(event.key)
    if found is None:
        found = permits.keys[event.key] = KeyPermits(event.rule)
    permits.idle.pop(event.key, None)
    if event.position:
        permits.asked.setdefault(event.key, {})[event.asker] = event.position
    if found.counts(event.asker):
        return
    found.rule = event.rule
    if event.rule.period_ms:
        found.first_ms = found.first_ms or at_ms
        found.due_ms = min(at_ms + event.rule.period_ms, found.first_ms + event.rule.max_ms)
    _settled(state.permits.doubted, event.key, event.asker)
    found.waiting[event.asker] = event.partition
    _forget(state, at_ms)


def permit_doubted(state: State, event: gate_events.PermitDoubted, at_ms: int) -> None:
    """It counts when it has been confirmed."""
    state.permits.doubted.setdefault(event.key, {})[event.asker] = event.partition


def permit_moved(state: State, event: gate_events.PermitMoved, at_ms: int) -> None:
    """The run holds a permit, is to end, or has nothing to do with the key any more."""
    if event.position:
        state.permits.passed[event.partition] = event.position
    _settled(state.permits.doubted, event.key, event.asker)
    if event.to == gate_events.GONE_AWAY:
        _settled(state.permits.asked, event.key, event.asker)
    if event.key not in state.permits.keys:
        return
    found = state.permits.keys[event.key]
    if event.to == gate_events.HOLDS:
        found.holders[event.asker] = found.waiting.pop(event.asker)
        found.first_ms = found.due_ms = 0
        if found.rule.interval_us:
            found.next_us = max(found.next_us, at_ms * 1000) + found.rule.interval_us
    elif event.to == gate_events.REVOKED:
        found.revoked[event.asker] = _partition(found, event.asker)
        found.waiting.pop(event.asker, None)
    else:
        for kept in (found.holders, found.waiting, found.revoked):
            kept.pop(event.asker, None)
        if not found.waiting:
            found.first_ms = found.due_ms = 0
        if found.is_idle():
            state.permits.idle[event.key] = None
    _forget(state, at_ms)


def breaker_moved(state: State, event: gate_events.BreakerMoved, at_ms: int) -> None:
    """Open, or closed."""
    if event.pause_ms:
        state.permits.breakers[event.name] = Breaker(event.pause_ms, event.due_ms)
    else:
        del state.permits.breakers[event.name]


def _settled(of_keys: dict[str, dict[RunId, _T]], key: str, asker: RunId) -> None:
    """There is nothing more to be remembered of it."""
    known = of_keys.get(key)
    if known is not None and known.pop(asker, None) is not None and not known:
        del of_keys[key]


def _partition(found: KeyPermits, run: RunId) -> Partition:
    return found.waiting[run] if run in found.waiting else found.holders[run]


def _forget(state: State, at_ms: int) -> None:
    """Keys with which nobody has to do, and whose rate is as it was before anybody came."""
    permits = state.permits
    while permits.idle:
        key = next(iter(permits.idle))
        if permits.keys[key].next_us > at_ms * 1000:
            return
        del permits.idle[key], permits.keys[key]
