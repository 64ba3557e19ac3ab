"""Appliers of what happens at addresses: events that come, waiters that come and go; and of what a run has taken there."""

from __future__ import annotations

from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.addresses import Kept, Place, Standing, waiter_key
from stepmesh_orchestrator.core.state import State

MAX_TAKEN = 1_000
"""Events of an address that a run remembers that it took: no address keeps more, so an older one is not there any more."""


def event_received(state: State, event: events.EventReceived, at_ms: int) -> None:
    """It is kept; those that there is no room for are not."""
    place = Place(event.scope, event.name, event.key)
    if event.dropped_through:
        state.addresses.drop_through(place, event.dropped_through)
    state.addresses.keep(place, Kept(event.id, state.at, at_ms, event.payload))


def waiter_placed(state: State, event: events.WaiterPlaced, at_ms: int) -> None:
    """It waits, or is given an event from now on."""
    standing = Standing(event.waiter, event.since_ms, event.offered)
    state.addresses.made(Place(event.scope, event.name, event.key)).waiters[waiter_key(event.waiter)] = standing


def waiter_left(state: State, event: events.WaiterLeft, at_ms: int) -> None:
    """It waits no more."""
    state.addresses.leave(Place(event.scope, event.name, event.key), event.waiter)


def wait_over(state: State, event: events.WaitOver, at_ms: int) -> None:
    """The run takes the event never again, if the wait had one."""
    if not event.position:
        return
    run = state.runs[event.run]
    if run.taken is None:
        run.taken = {}
    taken = run.taken.setdefault(Place("", event.name, event.key).text, [])
    taken.append(event.position)
    if len(taken) > MAX_TAKEN:
        taken.remove(min(taken))
