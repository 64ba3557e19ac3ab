"""Random flow documents, inputs and variables, made from a stream of small choices.

The bulk run draws the choices from a seeded generator, hypothesis draws them itself (and so can shrink them): the shapes are
the same. Choice 0 is always the simplest, so that a shrunk history is a short one.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from tests.simulation.script import CODES, KEYS, NAME, NEVER, VALUES

_T = TypeVar("_T")
MAX_STEPS = 8
MAX_NESTING = 2
"""Flows inside flows inside the flow."""


class Choices(Protocol):
    """Where chance comes from."""

    def below(self, bound: int) -> int:
        """A number from 0 to bound - 1."""
        ...


class Seeded:
    """Choices of a seeded generator."""

    def __init__(self, seed: int | str) -> None:
        self.below = random.Random(seed).randrange


class Drawn:
    """Choices that hypothesis makes. `draw`: of a composite strategy or of `data()`."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def below(self, bound: int) -> int:
        """See `Choices`."""
        return self._draw(st.integers(0, bound - 1))


def pick(choices: Choices, options: Sequence[_T]) -> _T:
    """One of them."""
    return options[choices.below(len(options))]


def chance(choices: Choices, percent: int) -> bool:
    """True in about that many cases of a hundred."""
    return choices.below(100) >= 100 - percent


@dataclass(frozen=True)
class Case:
    """A run to be: a document, its items, the variables given; and the flows that are stored beside it (id → document)."""

    flow: dict[str, Any]
    inputs: list[Any]
    variables: dict[str, Any] | None
    max_concurrency: int | None
    stored: dict[str, Any] = field(default_factory=dict)


def compact(value: Any) -> bytes:
    """A value as the journal's JSON: compact, in source key order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def flow_id(document: Any) -> str:
    """SHA-256 of the compact JSON in source key order."""
    return hashlib.sha256(compact(document)).hexdigest()


def make_case(choices: Choices) -> Case:
    """A flow with what it runs on."""
    stored: dict[str, Any] = {}
    flow = {**_Maker(choices, stored, 0).flow(), **_gates(choices)}
    inputs = [_input(choices) for _ in range(1 + (choices.below(4) if chance(choices, 25) else 0))]
    variables = {name: pick(choices, VALUES) for name in ("given", "declared") if chance(choices, 40)}
    return Case(flow, inputs, variables or None, pick(choices, (None, 1, 2, 3, 0)), stored)


def _gates(choices: Choices) -> dict[str, Any]:
    """What all flows of a world share, for they have one name: when a run begins depends on it, and nothing else."""
    gates: dict[str, Any] = {}
    if chance(choices, 30):
        gates["concurrency"] = {"limit": 1 + choices.below(2)}
    if chance(choices, 15):
        gates["throttle"] = pick(choices, ("1/m", "2/m"))
    return gates


@st.composite
def cases(draw: Callable[[st.SearchStrategy[int]], int]) -> Case:
    """`make_case` with choices of hypothesis."""
    return make_case(Drawn(draw))


def _input(choices: Choices) -> Any:
    if chance(choices, 88):
        return {
            "a": pick(choices, VALUES),
            "b": {"c": [1, pick(choices, VALUES)]},
            "items": [pick(choices, VALUES) for _ in range(choices.below(4))],
        }
    return pick(choices, VALUES)


_PATHS = (None, "$.a", "a", "$.b.c[1]", "$.b", '$["a"]', "$.a.a", "$.missing", "$.b.c[9]")
_INPUT_PATHS = ("$", "$.a", "a", "$.b.c[0]", "$['b']", "$.b.c[1]", None, "$.missing")


class _Maker:
    """Makes one document. `before`: ids of the steps that an expression may refer to."""

    def __init__(self, choices: Choices, stored: dict[str, Any], nesting: int) -> None:
        self.choices = choices
        self.stored = stored
        self.nesting = nesting
        self.before: list[str] = []
        self.in_default = False

    def flow(self) -> dict[str, Any]:
        steps = []
        for index in range(self._length()):
            steps.append(self._step(f"s{index}"))
            self.before.append(f"s{index}")
        flow: dict[str, Any] = {"name": f"n{self.nesting}", "steps": steps, "output": self._output()}
        if chance(self.choices, 75):
            variables = {"type": "object", "properties": {"declared": {"default": pick(self.choices, VALUES)}}}
            flow["schemas"] = {"type": "object", "properties": {"variables": variables}}
        return flow

    def _length(self) -> int:
        if self.nesting:
            return self.choices.below(4)
        return self.choices.below(3) if chance(self.choices, 15) else 2 + self.choices.below(MAX_STEPS - 1)

    def _output(self) -> Any:
        if self.before and chance(self.choices, 75):
            return {name: self._reference(name) for name in self.before if chance(self.choices, 70)}
        return self.expression(3)

    def _step(self, name: str) -> dict[str, Any]:
        choices = self.choices
        component, value = self._call()
        step: dict[str, Any] = {"id": name, "component": component, "input": value}
        if chance(choices, 15):
            step["skip"] = self.expression(2) if chance(choices, 40) else {"$if": self.expression(1), "then": False}
        if chance(choices, 12):
            step["mustExecute"] = True
        if chance(choices, 55):
            step["onError"] = self._on_error()
        if chance(choices, 8):
            step |= {
                "concurrencyKey": pick(choices, ("k", "l", {"$if": {"$variable": "given", "default": None}, "then": "k", "else": "l"})),
                "concurrencyLimit": 1 + choices.below(2),
            }
        return step

    def _on_error(self) -> dict[str, Any]:
        choices = self.choices
        action = pick(choices, ("fail", "useDefault", "retry", "retry"))
        policy: dict[str, Any] = {"action": action}
        if action != "fail" and chance(choices, 60):
            self.in_default = True
            policy["defaultValue"] = self.expression(2)
            self.in_default = False
        if action == "retry":
            policy["maxRetries"] = choices.below(4)
            policy["backoff"] = {
                "type": pick(choices, ("constant", "exponential", "fibonacci")),
                "initial": "500ms",
                "jitter": choices.below(2),
            }
        return policy

    # --- expressions ---

    def expression(self, depth: int) -> Any:
        """Any expression, nested at most `depth` deep."""
        choices = self.choices
        forms = [self._literal, self._input, self._variable]
        if self.before:
            forms += [self._any_reference] * 5
        if self.in_default:
            forms += [self._error]
        if depth:
            forms += [
                lambda: self._if(depth - 1),
                lambda: self._coalesce(depth - 1),
                lambda: self._list(depth - 1),
                lambda: self._object(depth - 1),
            ]
        return pick(choices, forms)()

    def _literal(self) -> Any:
        value = pick(self.choices, VALUES)
        return {"$literal": value} if chance(self.choices, 30) else value

    def _input(self) -> Any:
        return {"$input": self._path(_INPUT_PATHS)}

    def _variable(self) -> Any:
        expression: dict[str, Any] = {"$variable": pick(self.choices, ("declared", "given", "$.given.a", "undefined"))}
        if expression["$variable"] != "declared" and chance(self.choices, 92):
            expression["default"] = self.expression(0)
        return expression

    def _error(self) -> Any:
        return {"$error": pick(self.choices, ("$", "code", "$.missing"))}

    def _any_reference(self) -> Any:
        return self._reference(pick(self.choices, self.before))

    def _reference(self, name: str) -> Any:
        reference: dict[str, Any] = {"$step": name}
        if chance(self.choices, 15):
            reference["path"] = self._path(_PATHS)
        if chance(self.choices, 20):
            reference["onSkip"] = (
                {"action": "useDefault", "defaultValue": self.expression(1)} if chance(self.choices, 70) else {"action": "skip"}
            )
        return reference

    def _path(self, paths: Sequence[str | None]) -> str | None:
        return pick(self.choices, paths[:3]) if chance(self.choices, 80) else pick(self.choices, paths)

    def _if(self, depth: int) -> Any:
        expression = {"$if": self.expression(depth), "then": self.expression(depth)}
        if chance(self.choices, 70):
            expression["else"] = self.expression(depth)
        return expression

    def _coalesce(self, depth: int) -> Any:
        return {"$coalesce": [self.expression(depth) for _ in range(self.choices.below(4))]}

    def _list(self, depth: int) -> Any:
        return [self.expression(depth) for _ in range(self.choices.below(4))]

    def _object(self, depth: int) -> Any:
        return {pick(self.choices, ("a", "b", "c d", "é")): self.expression(depth) for _ in range(self.choices.below(4))}

    # --- components with their input ---

    def _call(self) -> tuple[str, Any]:
        choices = self.choices
        sort = choices.below(100)
        if sort < 65:
            return self._worker(sort), self.expression(2)
        if sort < 75 or (self.nesting >= MAX_NESTING and sort >= 82):
            return "/builtin/noop", self.expression(2)
        if sort < 80:
            return "/builtin/sleep", self._sleep()
        if sort < 84:
            return "/builtin/wait_for_event", self._wait()
        return pick(choices, (self._eval, self._map, self._iterate))()

    def _worker(self, sort: int) -> str:
        choices = self.choices
        if sort < 30:
            return pick(choices, ("/t/echo", "/t/wrap"))
        if sort < 42:
            return f"/t/value/{choices.below(len(VALUES))}"
        if sort < 48:
            return f"/t/fail/{pick(choices, CODES)}"
        if sort < 52:
            return f"/t/after/{pick(choices, CODES)}/{choices.below(4)}"
        if sort < 56:
            return f"/t/mixed/{choices.below(7)}"
        return f"/t/flaky/{pick(choices, CODES[:4])}/{choices.below(5)}"

    def _sleep(self) -> Any:
        value = {pick(self.choices, ("duration_ms", "duration")): pick(self.choices, (5, 0, 1500))}
        if chance(self.choices, 80):
            value["passthrough"] = self.expression(1)
        if chance(self.choices, 5):
            value["oops"] = 1
        return value

    def _wait(self) -> Any:
        """For an event that comes, or for one that never does; seldom for what cannot be."""
        if chance(self.choices, 12):
            return pick(self.choices, ({"name": "a/b"}, {"key": KEYS[0]}, {"name": NAME, "timeout": "soon"}, None))
        if chance(self.choices, 25):
            return {"name": NAME, "key": NEVER, "timeout": pick(self.choices, ("1h", 0, "5d"))}
        return {"name": NAME, "key": pick(self.choices, KEYS)}

    def _eval(self) -> tuple[str, Any]:
        value = {**self._body("flow"), "input": self.expression(1)}
        if chance(self.choices, 30):
            value["variables"] = {"given": self.expression(0)}
        return "/builtin/eval", value

    def _map(self) -> tuple[str, Any]:
        items = {"$input": "items"} if chance(self.choices, 40) else [self.expression(0) for _ in range(self.choices.below(5))]
        value = {**self._body("workflow"), "items": items}
        if chance(self.choices, 40):
            value["max_concurrency"] = self.choices.below(3)
        return "/builtin/map", value

    def _iterate(self) -> tuple[str, Any]:
        initial: Any = self.expression(1)
        for _ in range(self.choices.below(4)):
            initial = {"a": initial}
        value = {**self._body("flow", iterated=chance(self.choices, 85)), "initial_input": initial}
        if chance(self.choices, 80):
            value["max_iterations"] = 1 + self.choices.below(4)
        return "/builtin/iterate", value

    def _body(self, key: str, *, iterated: bool = False) -> dict[str, Any]:
        """A flow for a higher-order component, by its text, by its id, or (seldom) by the id of none."""
        flow = _Maker(self.choices, self.stored, self.nesting + 1).flow()
        if iterated:
            flow["output"] = {"$if": {"$input": "$.a.a"}, "then": {"next": {"$input": "a"}}, "else": {"result": flow["output"]}}
        if chance(self.choices, 50):
            return {key: {"$literal": flow}}
        if chance(self.choices, 15):
            return {"flow_id": "0" * 64}
        self.stored[flow_id(flow)] = flow
        return {"flow_id": flow_id(flow)}
