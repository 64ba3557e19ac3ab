"""How far somebody is in a queue, as text for people: for a place of a pool, for a permit of a key, at a gate."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.decide.breakers import name_of
from stepmesh_orchestrator.core.decide.step_keys import asker
from stepmesh_orchestrator.core.gates import Breaker, Gate
from stepmesh_orchestrator.core.places import Key
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item, Run, State


class Standing:
    """In the queues of a session; None: of a run that is shown apart from one. Each queue is put in order once."""

    def __init__(self, session: Session | None) -> None:
        self._session = session
        self._ranks: dict[tuple[int, str], dict[Key, int]] = {}

    def of_step(self, item: Item, step: int) -> str:
        """What a ready step waits for; "" when it is not known to wait in a queue."""
        if self._session is None:
            return ""
        name, who = name_of(item.run.flow.steps[step]), asker(item, step)
        if who in self._session.held_back.get(name, {}):
            breaker = self._session.state.permits.breakers[name]
            when = "now" if name in self._session.canaries else f"in {self._seconds(breaker):.1f} s"
            return f"ready, held back: {name} said that what it needs is not available; one attempt tries it {when}"
        asking = self._session.asking.get(asker(item, step)) if self._session.asking else None
        if asking is not None:
            shown, limit = asking[2].partition("//step/")[2], item.run.flow.steps[step].concurrency_limit
            return f"ready, waits for a place{_rank(self._session.state, asking[2], asker(item, step))} of key {shown} (limit {limit})"
        return self._for_a_place(item.run, item.index, step)

    def _seconds(self, breaker: Breaker) -> float:
        return 0.0 if self._session is None else max(0.0, (breaker.due_ms - self._session.now) / 1000)

    def _for_a_place(self, run: Run, item: int, step: int) -> str:
        places = None if self._session is None else self._session.places
        of_pool = None if places is None else places.held.get((run.id, item, step))
        if places is None or of_pool is None:
            return ""
        known = (id(of_pool), run.namespace)
        if known not in self._ranks:
            self._ranks[known] = {key: rank for rank, key in enumerate(of_pool.order(run.namespace), 1)}
        ranks = self._ranks[known]
        rank = ranks.get((run.id, item, step))
        if rank is None:
            return ""
        in_turn = sum(1 for lane in of_pool.lanes.values() if lane.waiting)
        beside = f", {in_turn} namespaces by turns" if in_turn > 1 else ""
        where = f"pool {places.name_of(of_pool)} ({of_pool.taken} of {of_pool.limit} tasks in flight)"
        return f"ready, waits for a place of {where}: {ordinal(rank)} of {len(ranks)} of namespace {run.namespace}{beside}"


def at_gate(state: State, run: Run, gate: Gate, now_ms: int) -> str:
    """How far a held run is."""
    rule, found = gate.rule, state.permits.keys.get(gate.key)
    whose = f"key {gate.shown}" if gate.shown else f"flow {run.flow.name or run.flow_id}"
    place = _rank(state, gate.key, run.id)
    seconds = max(0.0, (found.opens_ms() - now_ms) / 1000) if found is not None else 0.0
    if rule.period_ms:
        return f"waits until nobody comes after it for {whose}" + (f", {seconds:.1f} s more" if seconds else "")
    if rule.interval_us:
        return f"waits for its part of the rate{place} of {whose}" + (f"; the next one begins in {seconds:.1f} s" if seconds else "")
    return f"waits for a place{place} of {whose} (limit {rule.limit})"


def _rank(state: State, key: str, who: RunId) -> str:
    """Known where the key's home is this partition."""
    found = state.permits.keys.get(key)
    if found is None or who not in found.waiting:
        return ""
    return f": {ordinal(list(found.waiting).index(who) + 1)} of {len(found.waiting)}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, …, 11th, …"""
    last = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"
