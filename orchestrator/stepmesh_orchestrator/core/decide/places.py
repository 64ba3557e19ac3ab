"""Taking places of pools, giving them back, and calling who waits: see core/places.py for the rules.

A target that waits for a place has a slot of its tree kept for it, so that no run opens items which could not go on. A component that
waits for its sub-runs has no place, as it has no slot: they may need the same pool.
"""

from __future__ import annotations

from collections.abc import Callable

from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.decide import breakers, step_keys
from stepmesh_orchestrator.core.events import Parent
from stepmesh_orchestrator.core.flow.plan import PlanFailed, PlanSkipped
from stepmesh_orchestrator.core.places import POINT_MS, Places, PoolPlaces
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import QUEUED, RUNNING, Item


def wait(session: Session, of_pool: PoolPlaces, item: Item, step: int) -> None:
    """The step waits for a place."""
    run = item.run
    priority = run.priority + run.flow.steps[step].priority
    of_pool.put(item, step, session.now - priority * POINT_MS)
    run.tree.promised += 1
    of_pool.held[run.id, item.index, step] = of_pool


def take(of_pool: PoolPlaces, item: Item, step: int) -> None:
    """The step was dispatched."""
    of_pool.held[item.run.id, item.index, step] = of_pool
    if item.waits is None or item.holds_slot(step):
        of_pool.taken += 1


def leave(session: Session, item: Item, step: int) -> None:
    """The step is about to be no longer in flight, or no longer in the queue: its place, or the slot kept for it, is free."""
    places = session.places
    of_pool = None if places is None else places.held.pop((item.run.id, item.index, step), None)
    if places is None or of_pool is None:
        return
    if item.phases[step] == QUEUED:
        of_pool.remove(item)
        tree = item.run.tree
        tree.promised -= 1
        if item.waits is not None:  # it may take none: one whose sub-runs live does not
            session.touched[tree.root] = tree
    elif item.waits is None or item.holds_slot(step):
        _give_back(places, of_pool)


def end(session: Session, item: Item, step: int) -> None:
    """The attempt in flight is about to be over: it gives back its place, and the permit of its key. What `leave` does, in a hot place."""
    places = session.places
    if places is not None:
        of_pool = places.held.pop((item.run.id, item.index, step), None)
        if of_pool is not None and (item.waits is None or item.holds_slot(step)):
            of_pool.taken -= 1
            if of_pool.waiting:
                places.vacant[of_pool] = None
    if session.granted:
        step_keys.leave(session, item, step)


def leave_all(session: Session, item: Item) -> None:
    """The item is about to end."""
    phases = item.phases
    if RUNNING in phases or QUEUED in phases:
        for step in range(len(item.outcomes)):
            if phases[step] in (RUNNING, QUEUED):
                leave(session, item, step)
                if session.asking or session.granted:
                    step_keys.leave(session, item, step)
                if session.held_back or session.canaries:
                    breakers.leave(session, item, step)


def beside(session: Session, parent: Parent, change: Callable[[], None]) -> None:
    """Let a sub-run begin or end. Where a component started it, that one gives its place back with the first and takes it with the last."""
    owner = session.state.runs.get(parent.run) if parent.kind == "worker" else None
    item = None if owner is None else owner.items.get(parent.item)
    places = session.places
    if places is None or item is None:
        change()
        return
    of_pool = places.held.get((parent.run, parent.item, parent.step))
    before = item.holds_slot(parent.step)
    change()
    after = item.holds_slot(parent.step)
    if of_pool is not None and before and not after:
        _give_back(places, of_pool)
    elif of_pool is not None and after and not before:
        of_pool.taken += 1


def _give_back(places: Places, of_pool: PoolPlaces) -> None:
    of_pool.taken -= 1
    if of_pool.waiting:
        places.vacant[of_pool] = None


def adopt(session: Session, item: Item, step: int) -> None:
    """After a recovery: an attempt that is in flight has its place. One that can be routed nowhere any more has none."""
    if item.run.flow.steps[step].concurrency_key is not None:
        step_keys.adopt(session, item, item.run.flow.steps[step])
    places = session.places
    if places is None:
        return
    compiled, value = item.run.flow.steps[step], b"null"
    if session.router.looks_at_inputs:
        try:
            value = compiled.input.render(item)
        except (PlanFailed, PlanSkipped):
            return
    route = session.router.route(compiled.component, value, compiled.pool)
    if not isinstance(route, Failure):
        take(places.of(route.pool), item, step)
