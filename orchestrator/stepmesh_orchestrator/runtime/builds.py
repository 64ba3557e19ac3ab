"""Which code of durable functions live workers have, and what that means for one that has begun.

Soft state like all of presence: it steers where an activation goes and what a person reads, never what a history holds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto

from msgspec.structs import replace

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.functions import FunctionTurn
from stepmesh_broker.protocol.histories import Issued
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Result, Results, TaskRef
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.flow.routing import Route
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.rebuild import routed, task_again
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item
from stepmesh_orchestrator.runtime.dispatch import Dispatcher
from stepmesh_orchestrator.runtime.presence import Presence

_NAMED = 10
"""Pools, and functions of one, that a message shows."""


class NotOffered(StepmeshError):
    """SM-1040: a durable function began, and the worker that was to take it further does not have it."""

    default_code = "SM-1040"


class Place(Enum):
    """Where a function is to go on, when that is with no other worker. LATER: the worker that it belongs to may not have been heard yet."""

    HERE = auto()
    LATER = auto()


def home_of(session: Session, presence: Presence, turn: FunctionTurn, worker: WorkerId) -> WorkerId | Place:
    """A worker with other code than the function belongs to asks for its history: it goes on here only where that code is nowhere else."""
    task = turn.task
    item = in_flight(session, task.run, task.item, task.step, task.attempt)
    function = None if item is None else item.function(task.step)
    pinned = "" if function is None else function.pinned()
    if item is None or function is None or pinned in ("", turn.version):
        return Place.HERE
    route = routed(session, item, task.step)
    if isinstance(route, Failure):
        return Place.HERE
    having = presence.having(route[0].pool, route[0].component)
    homes = _homes(having, function, turn.version, worker)
    if homes:
        return random.choice(homes)
    return Place.LATER if presence.is_young and pinned not in having else Place.HERE


def _homes(having: Mapping[str, Sequence[WorkerId]], function: Function | None, version: str, worker: WorkerId) -> list[WorkerId]:
    """Workers to which a function belongs rather than to `worker`, whose code has this version; "" when it has none."""
    pinned, unfit = ("", []) if function is None else (function.pinned(), function.unfit)
    if pinned in having:
        fit = [pinned]
    elif version and version not in unfit:
        fit = []
    else:
        fit = [one for one in having if one not in unfit]
    return [one for version in fit for one in having[version] if one != worker]


def hand_over(session: Session, dispatcher: Dispatcher, task: TaskRef, home: WorkerId) -> bool:
    """Give the attempt, which is in flight, to this worker; False when it cannot be made any more."""
    key = (task.run, task.item, task.step)
    item = in_flight(session, *key, task.attempt)
    made = None if item is None else task_again(session, item, task.step, dispatcher.leases.dispatched(key) + 1)
    if made is None or isinstance(made, Failure):
        return False
    dispatcher.hand(home, *made)
    return True


def to_decide_on(session: Session, dispatcher: Dispatcher, message: Results) -> Sequence[Result]:
    """The results of a worker but for those of durable functions that it does not have, and another one has: they are handed over."""
    if all(one.failure is None for one in message.results):
        return message.results
    found: list[Result] = []
    for result in message.results:
        failure = result.failure
        if failure is not None and failure.code == ErrorCode.COMPONENT_NOT_FOUND:
            told = _not_offered(session, dispatcher, result, failure, message.worker)
            found += [] if told is None else [told]
        else:
            found.append(result)
    return found


def _not_offered(session: Session, dispatcher: Dispatcher, result: Result, failure: Failure, worker: WorkerId) -> Result | None:
    """The result of a worker that does not have the component. None: it is a durable function, and was handed to one that has it. One
    that has begun, and that nobody has, is told of as SM-1040."""
    item = in_flight(session, result.run, result.item, result.step, result.attempt)
    route = None if item is None else routed(session, item, result.step)
    if item is None or route is None or isinstance(route, Failure):
        return result
    function = item.function(result.step)
    homes = _homes(dispatcher.presence.having(route[0].pool, route[0].component), function, "", worker)
    task = TaskRef(result.run, result.item, result.step, result.attempt)
    if homes and hand_over(session, dispatcher, task, random.choice(homes)):
        return None
    if function is None:
        return result
    problem = _problem(dispatcher.presence, item, result.step, function, route[0])
    return replace(result, failure=replace(failure, message=str(problem)))


def build_note(session: Session, presence: Presence, item: Item, step: int) -> str:
    """What `explain` says of the code of a durable function; nothing of any other step."""
    function = item.function(step)
    pinned = "" if function is None else function.pinned()
    route = routed(session, item, step) if pinned else None
    if function is None or route is None or isinstance(route, Failure):
        return ""
    having = presence.having(route[0].pool, route[0].component)
    alive = ", ".join(f"{version} ({len(having[version])})" for version in sorted(having)) or "none"
    unfit = f", {', '.join(function.unfit)} cannot go on with it" if function.unfit else ""
    return f"; it belongs to build {pinned}{unfit}; builds that live workers have: {alive}"


def _problem(presence: Presence, item: Item, step: int, function: Function, route: Route) -> NotOffered:
    compiled, version = item.run.flow.steps[step], function.pinned()
    belongs = f" belongs to build {version} and" if version else ""
    stands = next((record for record in reversed(function.records) if isinstance(record, Issued)), None)
    place = "its first step" if stands is None else f"{stands.id} ({stands.where})"
    near = nearest(route.component, sorted({offer for _, offer, _ in presence.functions()}), 3)
    alike = f" Near to it: {', '.join(near)}." if near else ""
    return NotOffered(
        f"no worker of pool {route.pool} that was asked has the workflow {compiled.component} of step '{compiled.id}', item {item.index}, "
        f"of run {item.run.id}. It{belongs} stands at {place}. Likely cause: a deployment without it, or under another name.{alike} "
        f"Alive: {'; '.join(_alive(presence)) or 'no worker at all'}. The run is BLOCKED, nothing of it is lost: it goes on by itself",
        hint="start a worker that has it, of that build where one is named: `stepmesh worker FILE`; a renamed one keeps its name with "
        '@app.workflow(name="…")',
    )


def _alive(presence: Presence) -> Iterator[str]:
    """`pool orders (2 workers): /order_saga 3+4f2c1e9a0b1d`."""
    for pool in [pool for pool in presence.pools() if presence.workers(pool)][:_NAMED]:
        offers = sorted({f"{path} {version}" for of_pool, path, version in presence.functions() if of_pool == pool})
        count = presence.workers(pool)
        yield f"pool {pool} ({count} worker{'s' if count > 1 else ''}): {', '.join(offers[:_NAMED]) or 'no functions'}"
