"""After a recovery: what the journal does not say because it follows from the state.

Needs and queues are derived again; timers and tasks in flight are listed for the runtime to set and send again.
"""

from __future__ import annotations

from collections.abc import Iterator

from stepmesh_broker.protocol.messages import ErrorCode, Failure, Task, TaskRef
from stepmesh_orchestrator.core.commands import ServeKeys
from stepmesh_orchestrator.core.decide import gates, permits, places
from stepmesh_orchestrator.core.decide.addresses import tell_again
from stepmesh_orchestrator.core.decide.progress import settle
from stepmesh_orchestrator.core.decide.resume import resume_item
from stepmesh_orchestrator.core.effects import LimitWait, SetScheduleTimer
from stepmesh_orchestrator.core.flow.plan import PlanFailed, PlanSkipped
from stepmesh_orchestrator.core.flow.routing import Route
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import RUNNING, Item, State


def rebuild(session: Session) -> None:
    """Derive needs, queues and timers from a replayed state; may emit events for what had become possible."""
    for run in list(session.state.runs.values()):
        session.touched[run.tree.root] = run.tree
        if run.gates is not None:
            gates.ask(session, run)
        for item in list(run.items.values()):
            if RUNNING in item.phases:
                _resume_attempts(session, item)
            resume_item(session, item)
    permits.serve_keys(session, ServeKeys(again=True))
    tell_again(session)
    for schedule in session.state.schedules.entries:
        session.cause(SetScheduleTimer(session.now, schedule))
    settle(session)


def _resume_attempts(session: Session, item: Item) -> None:
    for step, phase in enumerate(item.phases):
        if phase == RUNNING:
            places.adopt(session, item, step)
            if session.router.limits_waits:
                _limit_wait(session, item, step)


def in_flight(state: State) -> Iterator[tuple[Item, int]]:
    """Every step that has an attempt in flight."""
    for run in state.runs.values():
        for item in run.items.values():
            if RUNNING in item.phases:
                for step, phase in enumerate(item.phases):
                    if phase == RUNNING:
                        yield item, step


def task_again(session: Session, item: Item, step: int, dispatch: int) -> tuple[str, Task] | Failure:
    """(pool, task) of an attempt in flight, to be claimed before it starts; why not when it cannot be made any more (its route is gone)."""
    found = routed(session, item, step)
    if isinstance(found, Failure):
        return found
    route, value = found
    run = item.run
    compiled = run.flow.steps[step]
    root = run.tree.root
    function = item.function(step)
    if function is not None and function.input is not None:
        value = function.input
    task = Task(
        run.id, item.index, step, item.attempt(step), dispatch, compiled.id, route.component, value,
        "" if root == run.id else root, compiled.timeout_ms or route.timeout_ms, True, run.traceparent, route.path_params, run.flow_id,
        session.now,
    )  # fmt: skip
    return route.pool, task if function is None else function.carried_by(task)


def time_limit(session: Session, item: Item, step: int) -> int:
    """Of an attempt in flight, ms from its claim: the step's own, else that of its plugin; 0 = none."""
    own = item.run.flow.steps[step].timeout_ms
    if own or not session.router.limits_attempts:
        return own
    found = routed(session, item, step)
    return 0 if isinstance(found, Failure) else found[0].timeout_ms


def routed(session: Session, item: Item, step: int) -> tuple[Route, bytes] | Failure:
    """Where an attempt in flight goes, with its input."""
    compiled = item.run.flow.steps[step]
    try:
        value = compiled.input.render(item)
    except PlanFailed as problem:
        return problem.failure
    except PlanSkipped:
        return Failure(ErrorCode.ORCHESTRATOR_ERROR, f"the input of step '{compiled.id}', which is in flight, is skipped now")
    route = session.router.route(compiled.component, value, compiled.pool)
    return route if isinstance(route, Failure) else (route, value)


def _limit_wait(session: Session, item: Item, step: int) -> None:
    """Its wait began with its dispatch; when a later attempt was dispatched is not known, so that one's begins anew."""
    found = routed(session, item, step)
    if not isinstance(found, Failure) and found[0].queue_ms:
        route, attempt = found[0], item.attempt(step)
        began = item.times[step << 1] if attempt == 1 else session.now
        reference = TaskRef(item.run.id, item.index, step, attempt)
        session.cause(LimitWait(began + route.queue_ms, reference, route.pool, route.queue_ms))
