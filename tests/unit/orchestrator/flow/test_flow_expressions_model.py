"""Compiled plans against an obvious evaluator of the same rules, over random expressions and random worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow.expressions import Context, compile_expression
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.jsontext import dumps, loads
from stepmesh_orchestrator.core.flow.nodes import Node
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, PlanFailed, PlanSkipped

STEPS = {"a": 0, "b": 1, "c": 2}
NAMES = ["x", "y"]


class Missing(Exception):
    """Nothing at the path."""


class Blocked(Exception):
    """The evaluator met a step that has not ended."""

    def __init__(self, *steps: int) -> None:
        self.steps = set(steps)


@dataclass
class World:
    input: bytes
    variables: Mapping[str, bytes]
    outcomes: list[Outcome | None]
    error: bytes | None = None
    skip_is_null: bool = field(default=False)


# --- the obvious evaluator ------------------------------------------------------------------------------


def at(value: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise Missing
        value = value[name]
    return value


def failed(message: str) -> PlanFailed:
    return PlanFailed(Failure(ErrorCode.EXPRESSION_FAILURE, message))


def evaluate(expression: Any, world: World) -> Any:
    if isinstance(expression, list):
        return together([(index, member) for index, member in enumerate(expression)], world, list)
    if not isinstance(expression, dict):
        return expression
    for form, evaluator in EVALUATORS.items():
        if form in expression:
            return evaluator(expression, world)
    return together(list(expression.items()), world, dict)


def together(members: list[tuple[Any, Any]], world: World, kind: type) -> Any:
    """All members; blocked by the union; then the first failure; then any skip."""
    values, problems = {}, []
    for key, member in members:
        try:
            values[key] = evaluate(member, world)
        except (Blocked, PlanFailed, PlanSkipped) as problem:
            problems.append(problem)
    blocked = [problem for problem in problems if isinstance(problem, Blocked)]
    if blocked:
        raise Blocked(*(step for problem in blocked for step in problem.steps))
    for problem in sorted(problems, key=lambda problem: isinstance(problem, PlanSkipped)):
        raise problem
    return values if kind is dict else list(values.values())


def evaluate_if(expression: Any, world: World) -> Any:
    try:
        condition = evaluate(expression["$if"], world)
    except PlanFailed:
        condition = None
    return evaluate(expression.get("else") if condition is None or condition is False else expression["then"], world)


def evaluate_coalesce(expression: Any, world: World) -> Any:
    for element in expression["$coalesce"]:
        try:
            value = evaluate(element, world)
        except PlanSkipped:
            continue
        if value is not None:
            return value
    return None


def evaluate_step(expression: Any, world: World) -> Any:
    index = STEPS[expression["$step"]]
    outcome = world.outcomes[index]
    if outcome is None:
        raise Blocked(index)
    if isinstance(outcome, Failure):
        raise PlanFailed(outcome)
    if isinstance(outcome, bytes):
        value = loads(outcome)
        name = expression.get("path")
        try:
            return None if value is None else at(value, [name] if name else [])
        except Missing:
            raise failed(f"Path $.{name} not found") from None
    policy = expression.get("onSkip") or {}
    if policy.get("action") == "useDefault":
        return evaluate(policy.get("defaultValue"), world)
    if world.skip_is_null:
        return None
    raise PlanSkipped


def evaluate_input(expression: Any, world: World) -> Any:
    name = expression["$input"]
    try:
        return at(loads(world.input), [name] if name else [])
    except Missing:
        raise failed(f"Input path $.{name} not found") from None


def evaluate_variable(expression: Any, world: World) -> Any:
    name, _, inner = expression["$variable"].removeprefix("$.").partition(".")
    try:
        return at({key: loads(text) for key, text in world.variables.items()}, [name, inner] if inner else [name])
    except Missing:
        if "default" in expression:
            return evaluate(expression["default"], world)
        raise failed(f"Undefined variable: {expression['$variable']}") from None


EVALUATORS = {
    "$literal": lambda expression, world: expression["$literal"],
    "$if": evaluate_if,
    "$coalesce": evaluate_coalesce,
    "$step": evaluate_step,
    "$input": evaluate_input,
    "$variable": evaluate_variable,
}


# --- random expressions and worlds ----------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.sampled_from([0.5, -0.0, "", "é"])
VALUE = PLAIN | st.dictionaries(st.sampled_from(NAMES), PLAIN, max_size=2) | st.lists(PLAIN, max_size=2)
MAYBE_PATH = st.none() | st.sampled_from(NAMES)


def expressions() -> st.SearchStrategy[Any]:
    leaf = (
        PLAIN
        | st.builds(lambda value: {"$literal": value}, VALUE | st.just({"$step": "nobody"}))
        | st.builds(lambda name, path: {"$step": name, "path": path}, st.sampled_from(list(STEPS)), MAYBE_PATH)
        | st.builds(lambda path: {"$input": path}, MAYBE_PATH)
        | st.builds(lambda name: {"$variable": name}, st.sampled_from(["v", "w", "$.v.x"]))
    )

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        skip = st.just({"action": "skip"}) | st.builds(lambda value: {"action": "useDefault", "defaultValue": value}, inner)
        return (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["p", "q", "then"]), inner, max_size=3)
            | st.builds(lambda c, t, e: {"$if": c, "then": t, "else": e}, inner, inner, inner)
            | st.builds(lambda c, t: {"$if": c, "then": t}, inner, inner)
            | st.builds(lambda elements: {"$coalesce": elements}, st.lists(inner, max_size=3))
            | st.builds(lambda name, policy: {"$step": name, "onSkip": policy}, st.sampled_from(list(STEPS)), skip)
            | st.builds(lambda name, default: {"$variable": name, "default": default}, st.sampled_from(["v", "w", "$.v.y"]), inner)
        )

    return st.recursive(leaf, larger, max_leaves=12)


OUTCOME = st.builds(dumps, VALUE) | st.builds(Failure, st.just(3), st.sampled_from(["boom", "bang"])) | st.just(SKIPPED)
WORLD = st.builds(
    World,
    input=st.builds(dumps, VALUE),
    variables=st.dictionaries(st.sampled_from(["v", "w"]), st.builds(dumps, VALUE), max_size=2),
    outcomes=st.lists(OUTCOME, min_size=3, max_size=3),
    skip_is_null=st.booleans(),
)


def compiled(expression: Any, world: World) -> Node:
    findings = Findings(lambda path: None)
    node = compile_expression(expression, (), Context(STEPS, 3, findings, skip_is_null=world.skip_is_null))
    assert findings.diagnostics.items == []
    return node


def rendered(node: Node, world: World) -> Any:
    try:
        return ("value", repr(loads(node.render(world))))
    except PlanFailed as problem:
        return ("failed", problem.failure)
    except PlanSkipped:
        return ("skipped",)


def modelled(expression: Any, world: World) -> Any:
    try:
        return ("value", repr(evaluate(expression, world)))
    except PlanFailed as problem:
        return ("failed", problem.failure)
    except PlanSkipped:
        return ("skipped",)
    except Blocked as problem:
        return ("blocked", sorted(problem.steps))


@settings(max_examples=600)
@given(expressions(), WORLD)
def test_a_plan_is_what_the_evaluator_says(expression: Any, world: World) -> None:
    node = compiled(expression, world)
    assert node.blockers(world) == []
    assert rendered(node, world) == modelled(expression, world)


@settings(max_examples=600)
@given(expressions(), WORLD, st.sets(st.integers(0, 2)))
def test_blockers_are_what_stops_the_evaluator(expression: Any, world: World, unfinished: set[int]) -> None:
    world.outcomes = [None if index in unfinished else outcome for index, outcome in enumerate(world.outcomes)]
    node = compiled(expression, world)
    expected = modelled(expression, world)
    assert node.blockers(world) == (expected[1] if expected[0] == "blocked" else [])
    if expected[0] != "blocked":
        assert rendered(node, world) == expected
    assert set(node.blockers(world)) <= set(node.mentions)
    if node.static:
        assert node.blockers(world) == [index for index in node.mentions if index in unfinished]


@settings(max_examples=300)
@given(expressions(), WORLD)
def test_ending_only_what_blocks_leads_to_the_same_value(expression: Any, world: World) -> None:
    node = compiled(expression, world)
    lazy = World(world.input, world.variables, [None, None, None], skip_is_null=world.skip_is_null)
    while blockers := node.blockers(lazy):
        lazy.outcomes[blockers[0]] = world.outcomes[blockers[0]]
    assert rendered(node, lazy) == rendered(node, world)
