"""Which code of durable functions live workers have, and what that means for one that has begun.

Soft state like all of presence: it steers where an activation goes and what a person reads, never what a history holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.histories import Issued
from stepmesh_broker.protocol.messages import Failure, Result
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.rebuild import task_again
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item
from stepmesh_orchestrator.runtime.presence import Presence

_NAMED = 10
"""Pools, and functions of one, that a message shows."""


class NotOffered(StepmeshError):
    """SM-1040: a durable function began, and the worker that was to take it further does not have it."""

    default_code = "SM-1040"


def not_offered(session: Session, presence: Presence, result: Result, failure: Failure) -> Result:
    """The result of a worker that does not have the component, told as SM-1040 when that is a function that has begun."""
    item = in_flight(session, result.run, result.item, result.step, result.attempt)
    function = None if item is None else item.function(result.step)
    if item is None or function is None:
        return result
    return replace(result, failure=replace(failure, message=str(_problem(session, presence, item, result.step, function))))


def _problem(session: Session, presence: Presence, item: Item, step: int, function: Function) -> NotOffered:
    compiled = item.run.flow.steps[step]
    made = task_again(session, item, step, 1)
    pool, path = ("?", compiled.component) if isinstance(made, Failure) else (made[0], made[1].component)
    began = function.began()
    version = f" began on build {began.version} and" if began is not None and began.version else ""
    stands = next((record for record in reversed(function.records) if isinstance(record, Issued)), None)
    place = "its first step" if stands is None else f"{stands.id} ({stands.where})"
    near = nearest(path, sorted({offer for _, offer, _ in presence.functions()}), 3)
    alike = f" Near to it: {', '.join(near)}." if near else ""
    return NotOffered(
        f"no worker of pool {pool} that was asked has the workflow {compiled.component} of step '{compiled.id}', item {item.index}, "
        f"of run {item.run.id}. It{version} stands at {place}. Likely cause: a deployment without it, or under another name.{alike} "
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
