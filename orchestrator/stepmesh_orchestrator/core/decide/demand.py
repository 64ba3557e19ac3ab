"""How an item moves: demand, readiness, outcomes. Nothing else decides what runs.

Rules kept here. A step runs only when something needs it. It begins when nothing it needs now is without an outcome, and is
asked again, lazily, each time one of those ends; so its value does not depend on the order in which steps end. A target is a step, or
the item's output (the number after the last step's).
"""

from __future__ import annotations

from stepmesh_orchestrator.core.flow.plan import Plan, PlanFailed, PlanSkipped, is_truthy
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import FALLBACK, IDLE, QUEUED, WAITING, Item


def demand(session: Session, item: Item, targets: list[int]) -> None:
    """These are needed now, and with them what they need."""
    phases = item.phases
    while targets:
        target = targets.pop()
        if phases[target] != IDLE:
            continue
        blocked = blockers(item, target)
        if not blocked:
            phases[target] = QUEUED
            session.work.append((item, target))
            continue
        phases[target] = WAITING
        if len(blocked) > 1 and _is_static(item, target):
            if item.remaining is None:
                item.remaining = {}
            item.remaining[target] = len(blocked)
        targets.extend(reversed(blocked))


def propagate(session: Session, item: Item, step: int) -> None:
    """`step` has an outcome: whoever waited for it may go on."""
    phases = item.phases
    for target in item.run.flow.dependents[step]:
        if phases[target] == FALLBACK:
            session.work.append((item, target))
            continue
        if phases[target] != WAITING:
            continue
        if _is_static(item, target):
            remaining = item.remaining
            left = remaining.get(target, 1) if remaining else 1
            if left > 1:
                item.remaining[target] = left - 1  # type: ignore[index]  # `left` came from it
                continue
        else:
            blocked = blockers(item, target)
            if blocked:
                demand(session, item, blocked[::-1])
                continue
        phases[target] = QUEUED
        session.work.append((item, target))


def blockers(item: Item, target: int) -> list[int]:
    """Steps without an outcome that the target needs now. For a step with `skip`: first what that needs."""
    flow = item.run.flow
    if target == len(flow.steps):
        return _blockers(item, flow.output)
    step = flow.steps[target]
    if step.skip is not None:
        blocked = step.skip.blockers(item)
        if blocked:
            return blocked
        try:
            if is_truthy(step.skip.render(item)):
                return []
        except (PlanFailed, PlanSkipped):
            return []  # `begin` renders it again and gives the step its outcome
    return _blockers(item, step.input)


def _blockers(item: Item, plan: Plan) -> list[int]:
    if plan.static:
        outcomes = item.outcomes
        return [index for index in plan.mentions if outcomes[index] is None]
    return plan.blockers(item)


def _is_static(item: Item, target: int) -> bool:
    """Whether counting the ends of `dependents` tells when the target is ready. Not so with a default's needs among them."""
    flow = item.run.flow
    if target == len(flow.steps):
        return flow.output.static
    step = flow.steps[target]
    default = step.on_error.default
    return step.input.static and step.skip is None and (default is None or not default.mentions)
