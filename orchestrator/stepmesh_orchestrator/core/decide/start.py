"""Beginning a step: skip it, find its input, and send it where it runs: a pool, a sub-run, a timer, or nowhere."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import ErrorCode, Failure, Task, TaskRef
from stepmesh_orchestrator.core.decide import breakers, builtins, cancel, failure, finish, functions, keys, places, step_keys
from stepmesh_orchestrator.core.effects import LimitWait
from stepmesh_orchestrator.core.events import StepDispatched, StepFailed, StepSkipped
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.flow.plan import PlanFailed, PlanSkipped, is_truthy
from stepmesh_orchestrator.core.flow.routing import Route
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item


def begin(session: Session, item: Item, target: int) -> None:
    """Nothing blocks the target: give it an outcome, or set it going when its tree has a slot."""
    flow, tree = item.run.flow, item.run.tree
    if target == len(flow.steps):
        if not (tree.cancelling and cancel.holds(session, item.run)):
            finish.end_output(session, item)
        return
    if tree.paused_ms or (tree.limit and tree.in_flight + tree.promised >= tree.limit):
        tree.queue.append((item, target))
        _give_back(session, item, target)
        return
    if tree.cancelling and item.function(target) is None and cancel.holds(session, item.run):
        _give_back(session, item, target)
        return  # it stays queued until its run is stopped
    step = flow.steps[target]
    try:
        if step.skip is not None and is_truthy(step.skip.render(item)):
            raise PlanSkipped
        value = step.input.render(item)
    except PlanSkipped:
        session.emit(StepSkipped(item.run.id, item.index, target))
        session.resolve(item, target)
        return
    except PlanFailed as problem:
        _input_failed(session, item, step, problem.failure)
        return
    route = session.router.route(step.component, value, step.pool)
    if isinstance(route, Failure):
        failure.attempt_failed(session, item, step, route)
    elif route.plugin == "builtin" and route.component in builtins.CORE:
        builtins.CORE[route.component](session, item, step, value)
    else:
        dispatch(session, item, step, value, route)


def _give_back(session: Session, item: Item, target: int) -> None:
    """It does not begin now. Others may wait for what it was let through for, and it for them: for their slot, or for their end."""
    if session.canaries:
        breakers.leave(session, item, target)
    if session.granted:
        step_keys.leave(session, item, target)


def dispatch(session: Session, item: Item, step: CompiledStep, value: bytes, route: Route) -> None:
    """One attempt goes to its pool, or waits for a place of it."""
    if session.state.permits.breakers and breakers.holds_back(session, item, step):
        return
    if step.concurrency_key is not None and not _may_go(session, item, step):
        return
    run, known = item.run, session.places
    of_pool = None if known is None else known.pools.get(route.pool) or known.of(route.pool)
    if of_pool is not None and (of_pool.taken >= of_pool.limit or (of_pool.waiting and not of_pool.calling)):
        places.wait(session, of_pool, item, step.index)
        return
    if item.pasts is not None:
        functions.take_over(session, item, step.index, value)
    attempt = item.attempt(step.index)
    session.emit(StepDispatched(run.id, item.index, step.index, attempt))
    if of_pool is not None:  # `places.take`, in a hot place
        of_pool.held[run.id, item.index, step.index] = of_pool
        if item.waits is None or item.holds_slot(step.index):
            of_pool.taken += 1
    root = run.tree.root
    queue_ms = route.queue_ms
    function = item.function(step.index)
    if function is not None and function.input is not None:
        value = function.input
    suspect = attempt > 1 and item.wait(step.index).transport_used > 0  # a worker was lost with it: its lease is to show the next loss
    task = Task(
        run.id, item.index, step.index, attempt, 1, step.id, route.component, value, "" if root == run.id else root,
        step.timeout_ms or route.timeout_ms, suspect or queue_ms > 0, run.traceparent, route.path_params, run.flow_id,
        session.now,
    )  # fmt: skip
    if function is not None:
        task = function.carried_by(task)
    if queue_ms:
        reference = TaskRef(run.id, item.index, step.index, attempt)
        session.cause(LimitWait(session.now + queue_ms, reference, route.pool, queue_ms))
    waiting = session.tasks.get(route.pool)
    if waiting is None:
        session.tasks[route.pool] = [task]
    else:
        waiting.append(task)


def _may_go(session: Session, item: Item, step: CompiledStep) -> bool:
    try:
        if step_keys.may_go(session, item, step):
            return True
        breakers.leave(session, item, step.index)
    except keys.BadKey as problem:
        breakers.leave(session, item, step.index)
        failure.attempt_failed(session, item, step, Failure(ErrorCode.INVALID_INPUT, str(problem)))
    return False


def _input_failed(session: Session, item: Item, step: CompiledStep, problem: Failure) -> None:
    """A failed need passes its error on, whatever `onError` says; a bad expression of its own is the step's own failure."""
    inherited = any(outcome is problem for outcome in item.outcomes)
    if inherited or problem.code != ErrorCode.EXPRESSION_FAILURE:
        session.emit(StepFailed(item.run.id, item.index, step.index, problem, True))
        session.resolve(item, step.index)
    else:
        failure.attempt_failed(session, item, step, problem)
