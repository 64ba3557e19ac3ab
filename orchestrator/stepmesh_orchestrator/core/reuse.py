"""Which results of an item another run may take over, so that its steps do not run again. Pure; it decides before the run exists.

A step's result is taken over when the step, by its id, had one there, is not `from_step` nor depends on it, calls the same component, and
would be given the same input here, byte for byte, by what else is taken over. So a changed input, variable, flow or override makes those
steps run again that it reaches, and no others. A step that failed has no result to give.

Two things reach a step beside its input: a default sees all that there is, and sub-runs inherit the run's variables. So where something
was changed, what may be a default's result is not taken over, and that of a sub-run only under the same variables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stepmesh_orchestrator.core.evolve.runs import effective_variables
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, CompiledStep
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, PlanFailed, PlanSkipped, Scope, Skipped, is_truthy
from stepmesh_orchestrator.core.rows import ItemRow
from stepmesh_orchestrator.core.seeds import Seed
from stepmesh_orchestrator.core.state import Item

_WITH_SUB_RUNS = ("/eval", "/map", "/iterate")


@dataclass(frozen=True, slots=True)
class Given:
    """What the steps of an item work on: the `Scope` of its expressions. `passed_on`: the variables as the run was given them, which its
    sub-runs inherit."""

    flow: CompiledFlow
    input: bytes
    passed_on: bytes | None
    variables: Mapping[str, bytes]
    outcomes: list[Outcome | None]
    error: bytes | None = None

    @classmethod
    def of(cls, flow: CompiledFlow, value: bytes, variables: bytes | None, outcomes: list[Outcome | None] | None = None) -> Given:
        """An item of a run with these variables. `outcomes`: none without. Raises `ValueError` for variables that are no object."""
        known: list[Outcome | None] = [None] * len(flow.steps)
        return cls(flow, value, variables, effective_variables(flow, variables), known if outcomes is None else outcomes)

    def alike(self, other: Given) -> bool:
        """Whether steps see the same but for the outcomes."""
        return self.flow is other.flow and self.input == other.input and self.passed_on == other.passed_on


class Past(NamedTuple):
    """What an item has to give: outcomes by step, successes and skips only. `defaulted`: those that may be the step's default. `attempts`:
    the last one of each step that was begun."""

    outcomes: list[Outcome | None]
    defaulted: frozenset[int]
    attempts: Mapping[int, int]


def seeds_of(past: Given, defaulted: Collection[int], found: Given, from_step: int | None) -> list[Seed]:
    """What `found`, an item without outcomes, takes over from `past`. `from_step`: of its flow."""
    flow = found.flow
    here = _named(past, flow)
    again = set() if from_step is None else _after(flow, from_step)
    for step, old in here.items():
        if step not in again:
            found.outcomes[step] = past.outcomes[old]
    _drop_others(_Comparison(past, found, here, defaulted, past.alike(found)))
    taken = ((step, outcome) for step, outcome in enumerate(found.outcomes) if outcome is not None)
    return [Seed(step, outcome if isinstance(outcome, bytes) else None) for step, outcome in taken]


def past_of(row: ItemRow, steps: int) -> Past:
    """Of an ended item."""
    outcomes: list[Outcome | None] = [None] * steps
    for step in row.steps:
        if step.status == "skipped":
            outcomes[step.step] = SKIPPED
        elif step.status == "success":
            outcomes[step.step] = step.output
    defaulted = frozenset(step.step for step in row.steps if step.failure is not None)
    return Past(outcomes, defaulted, {step.step: step.attempt for step in row.steps})


def past_of_live(item: Item) -> Past:
    """Of an item that is under way."""
    outcomes: list[Outcome | None] = [outcome if isinstance(outcome, bytes | Skipped) else None for outcome in item.outcomes]
    defaulted = frozenset(step for step, wait in (item.waits or {}).items() if wait.last_failure is not None)
    return Past(outcomes, defaulted, {step: item.attempt(step) for step in range(len(outcomes))})


def nothing(flow: CompiledFlow) -> Past:
    """Of an item that never began."""
    return Past([None] * len(flow.steps), frozenset(), {})


def restarted(
    past: Past, before: CompiledFlow, flow: CompiledFlow, taken: Sequence[Seed], from_step: int | None
) -> Iterator[tuple[int, int]]:
    """Steps that run again though nobody asked for it, and whose sub-runs may take results over: index there, index in `flow`."""
    done = {seed.step for seed in taken} | (set() if from_step is None else _after(flow, from_step))
    there = {step.id: step for step in before.steps if step.index in past.attempts and step.component.endswith(_WITH_SUB_RUNS)}
    for step in flow.steps if there else ():
        old = there.get(step.id)
        if old is not None and step.index not in done and step.component == old.component:
            yield old.index, step.index


def begun_again(
    past: Past, before: CompiledFlow, flow: CompiledFlow, taken: Sequence[Seed], from_step: int | None, *, within: bool
) -> Iterator[tuple[int, int]]:
    """Steps that began there and run again here, with the same component: index there, index in `flow`. What `from_step` makes run again is
    not among them, but it itself is where it is to go on from `within`."""
    over = {seed.step for seed in taken} | (set() if from_step is None else _after(flow, from_step) - ({from_step} if within else set()))
    there = {step.id: step for step in before.steps if step.index in past.attempts and not step.component.startswith("/builtin/")}
    for step in flow.steps if there else ():
        old = there.get(step.id)
        if old is not None and step.index not in over and (step.component, step.pool) == (old.component, old.pool):
            yield old.index, step.index


def input_of(step: CompiledStep, scope: Scope) -> bytes | None:
    """What it was given; None when that is not known."""
    value = _begun(step, scope)
    return value if isinstance(value, bytes) else None


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


class _Comparison(NamedTuple):
    """Of two items. `here`: steps with an outcome in the past, index now → index then."""

    past: Given
    found: Given
    here: Mapping[int, int]
    defaulted: Collection[int]
    alike: bool

    def is_same(self, step: int) -> bool:
        """Whether the step, as it stands now, would do what it did."""
        old = self.here[step]
        before, now = self.past.flow.steps[old], self.found.flow.steps[step]
        value = _begun(now, self.found)
        if value is None or self.alike:
            return value is not None
        if old in self.defaulted or (self.past.passed_on != self.found.passed_on and now.component.endswith(_WITH_SUB_RUNS)):
            return False
        same = (before.component, before.pool) == (now.component, now.pool) and value == _begun(before, self.past)
        return same and _fits(now, self.past.outcomes[old])


def _fits(step: CompiledStep, outcome: Outcome | None) -> bool:
    return step.output_schema is None or not isinstance(outcome, bytes) or not step.output_schema.violations(outcome)


def _drop_others(items: _Comparison) -> None:
    """Take back what is not the same here. With each outcome that goes, those that need it are looked at again."""
    found = items.found
    left = deque(step for step, outcome in enumerate(found.outcomes) if outcome is not None)
    while left:
        step = left.popleft()
        if found.outcomes[step] is None or items.is_same(step):
            continue
        found.outcomes[step] = None
        left.extend(dependent for dependent in found.flow.dependents[step] if dependent < len(found.flow.steps))


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
