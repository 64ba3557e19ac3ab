"""Which results of an item another run may take over, so that its steps do not run again. Pure; it decides before the run exists.

A step's result is taken over when the step, by its id, had one there, is not `from_step` nor depends on it, calls the same component, and
would be given the same input here, byte for byte, by what else is taken over. So a changed input, variable, flow or override makes those
steps run again that it reaches, and no others. A step that failed has no result to give.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from stepmesh_orchestrator.core.events import Seed
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, CompiledStep
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, PlanFailed, PlanSkipped, Scope, Skipped, is_truthy
from stepmesh_orchestrator.core.rows import ItemRow


@dataclass(frozen=True, slots=True)
class Given:
    """What the steps of an item work on: the `Scope` of its expressions. `outcomes`: those that it has, by step."""

    flow: CompiledFlow
    input: bytes
    variables: Mapping[str, bytes]
    outcomes: list[Outcome | None]
    error: bytes | None = None

    def alike(self, other: Given) -> bool:
        """Whether steps see the same but for the outcomes."""
        return self.flow is other.flow and self.input == other.input and self.variables == other.variables


def seeds_of(past: Given, flow: CompiledFlow, value: bytes, variables: Mapping[str, bytes], from_step: int | None) -> list[Seed]:
    """What an item on `value` takes over from `past`, whose outcomes are successes and skips only. `from_step`: of `flow`."""
    found = Given(flow, value, variables, [None] * len(flow.steps))
    here = _named(past, flow)
    again = set() if from_step is None else _after(flow, from_step)
    for step, old in here.items():
        if step not in again:
            found.outcomes[step] = past.outcomes[old]
    _drop_others(past, found, here)
    taken = ((step, outcome) for step, outcome in enumerate(found.outcomes) if outcome is not None)
    return [Seed(step, outcome if isinstance(outcome, bytes) else None) for step, outcome in taken]


def outcomes_of(row: ItemRow, steps: int) -> list[Outcome | None]:
    """Those of an ended item that can be taken over, by step."""
    outcomes: list[Outcome | None] = [None] * steps
    for step in row.steps:
        if step.status == "skipped":
            outcomes[step.step] = SKIPPED
        elif step.status == "success":
            outcomes[step.step] = step.output
    return outcomes


def _named(past: Given, flow: CompiledFlow) -> dict[int, int]:
    """Steps of `flow` that have an outcome in the past: index here → index there."""
    if past.flow is flow:
        return {step: step for step, outcome in enumerate(past.outcomes) if outcome is not None}
    there = {step.id: step.index for step in past.flow.steps if past.outcomes[step.index] is not None}
    return {step.index: there[step.id] for step in flow.steps if step.id in there}


def _after(flow: CompiledFlow, first: int) -> set[int]:
    """The step, and all that depend on it, through others too."""
    found, left = {first}, [first]
    while left:
        for dependent in flow.dependents[left.pop()]:
            if dependent < len(flow.steps) and dependent not in found:
                found.add(dependent)
                left.append(dependent)
    return found


def _drop_others(past: Given, found: Given, here: Mapping[int, int]) -> None:
    """Take back what is not the same here. With each outcome that goes, those that need it are looked at again."""
    alike = past.alike(found)
    left = deque(step for step, outcome in enumerate(found.outcomes) if outcome is not None)
    while left:
        step = left.popleft()
        if found.outcomes[step] is None or _is_same(past, found, here[step], step, alike=alike):
            continue
        found.outcomes[step] = None
        left.extend(dependent for dependent in found.flow.dependents[step] if dependent < len(found.flow.steps))


def _is_same(past: Given, found: Given, old: int, new: int, *, alike: bool) -> bool:
    before, now = past.flow.steps[old], found.flow.steps[new]
    value = _begun(now, found)
    if value is None or alike:
        return value is not None
    same = (before.component, before.pool, before.on_error) == (now.component, now.pool, now.on_error)
    return same and value == _begun(before, past)


def _begun(step: CompiledStep, scope: Scope) -> bytes | Skipped | None:
    """The input that the step is given, or that it is skipped; None when that is not known yet, or fails."""
    try:
        if step.skip is not None:
            if step.skip.blockers(scope):
                return None
            if is_truthy(step.skip.render(scope)):
                return SKIPPED
        return None if step.input.blockers(scope) else step.input.render(scope)
    except PlanSkipped:
        return SKIPPED
    except PlanFailed:
        return None
