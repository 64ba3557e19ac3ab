"""A failed attempt: another one later, a default in its place, or the end of the step."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import ErrorCode, Failure, TaskRef
from stepmesh_orchestrator.core.decide import parking
from stepmesh_orchestrator.core.effects import ParkTask, SetTimer
from stepmesh_orchestrator.core.events import StepDefaulted, StepFailed, StepFallingBack, StepRetrying
from stepmesh_orchestrator.core.failures import Budget, delay_ms, error_json, retry_budget
from stepmesh_orchestrator.core.flow.compiled import CompiledStep, ErrorAction
from stepmesh_orchestrator.core.flow.plan import PlanFailed, PlanSkipped
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item


class ErrorScope:
    """What `onError.defaultValue` may see: the item's scope and `$error`."""

    __slots__ = ("error", "input", "outcomes", "variables")

    def __init__(self, item: Item, failure: Failure) -> None:
        self.input = item.input
        self.variables = item.variables
        self.outcomes = item.outcomes
        self.error: bytes | None = error_json(failure)


def attempt_failed(session: Session, item: Item, step: CompiledStep, failure: Failure, *, no_worker: bool = False) -> None:
    """Decide what follows from the failure of the present attempt. `no_worker`: none was lost with it, whatever its code says, because it
    is that of a step further down, which had its transport retries there, or of a wait."""
    function = item.function(step.index)
    if function is None:
        _decide(session, item, step, failure, no_worker=no_worker)
    elif failure.code == ErrorCode.COMPONENT_NOT_FOUND:
        parking.let_go(session, item, step.index, failure.message)
    else:
        commands = function.commands()
        _decide(session, item, step, failure, no_worker=no_worker)
        if item.function(step.index) is None:
            parking.end(session, item, step.index, commands)


def _decide(session: Session, item: Item, step: CompiledStep, failure: Failure, *, no_worker: bool) -> None:
    policy = step.on_error
    wait = item.waits.get(step.index) if item.waits else None
    budget = retry_budget(failure, policy, wait, 0 if no_worker else session.settings.transport_max_retries)
    if budget is not None:
        _retry(session, item, step, failure, budget)
        return
    if failure.code == ErrorCode.UNREACHABLE and not no_worker:
        reference = TaskRef(item.run.id, item.index, step.index, item.attempt(step.index))
        session.cause(ParkTask(reference, step.id, failure.message))
    if policy.action is ErrorAction.USE_DEFAULT or (policy.action is ErrorAction.RETRY and policy.default is not None):
        _fall_back(session, item, step, failure)
    else:
        session.emit(StepFailed(item.run.id, item.index, step.index, failure))
        session.resolve(item, step.index)


def _retry(session: Session, item: Item, step: CompiledStep, failure: Failure, budget: Budget) -> None:
    attempt = item.attempt(step.index)
    transport = budget is Budget.TRANSPORT
    wait = item.waits.get(step.index) if item.waits else None
    used = 0 if wait is None else wait.transport_used if transport else wait.component_used
    backoff = step.on_error.backoff if step.on_error.backoff is not None and not transport else session.settings.backoff
    due = session.now + delay_ms(backoff, used + 1, failure, f"{item.run.id}/{item.index}/{step.index}/{attempt}")
    session.emit(StepRetrying(item.run.id, item.index, step.index, attempt, failure, due, transport))
    session.cause(SetTimer(due, TaskRef(item.run.id, item.index, step.index, attempt + 1)))
    session.touched[item.run.tree.root] = item.run.tree


def _fall_back(session: Session, item: Item, step: CompiledStep, failure: Failure) -> None:
    if default_blockers(item, step, failure):
        session.emit(StepFallingBack(item.run.id, item.index, step.index, failure))
        session.touched[item.run.tree.root] = item.run.tree
        session.work.append((item, step.index))
    else:
        use_default(session, item, step, failure)


def default_blockers(item: Item, step: CompiledStep, failure: Failure) -> list[int]:
    """Steps without an outcome that the default needs now, lazily."""
    default = step.on_error.default
    return [] if default is None or not default.mentions else default.blockers(ErrorScope(item, failure))


def use_default(session: Session, item: Item, step: CompiledStep, failure: Failure) -> None:
    """Nothing blocks the default: it is the step's outcome. A default that a skip takes away is null."""
    default = step.on_error.default
    try:
        output = b"null" if default is None else default.render(ErrorScope(item, failure))
    except PlanFailed as problem:
        session.emit(StepFailed(item.run.id, item.index, step.index, problem.failure))
    except PlanSkipped:
        session.emit(StepDefaulted(item.run.id, item.index, step.index, b"null", failure))
    else:
        session.emit(StepDefaulted(item.run.id, item.index, step.index, output, failure))
    session.resolve(item, step.index)
