"""The obvious model of a flow's execution: plain recursion over the document, one item after the other, nothing in flight.

It says what the language page says, in the way a reader would check it by hand, and shares no code with the engine. It knows
no order of completion, no slots, no crashes and no duplicates: that the engine's results do not depend on them is what the
comparison shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.script import NEVER, Fail, Ok, payload

Script = Callable[[str, Any, int], "Ok | Fail"]

TRANSPORT = ("UNREACHABLE", "TIMEOUT")
COMPONENT = ("COMPONENT_FAILED", "RESOURCE_UNAVAILABLE")
TRANSPORT_RETRIES = 3
YEAR_MS = 366 * 24 * 3_600_000
RUN_ID = "<run>"
"""Stands for the id of any sub-run."""


class Skip:
    """There is no value, because of a skipped step."""


SKIP = Skip()


@dataclass(frozen=True)
class Failed:
    """There is no value, because of an error. `own`: the expression's own, not passed on from a step. `of_sub_run`: an iteration's."""

    code: str
    message: str
    own: bool = True
    retry_after_ms: int | None = None
    of_sub_run: bool = False

    @property
    def error(self) -> dict[str, Any]:
        """As in a FlowResult."""
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True)
class _Place:
    """Where an expression stands: in a default it sees `$error`; in the output a reference to a skipped step gives null."""

    error: Any = None
    is_output: bool = False


_OUTPUT = _Place(is_output=True)
_INNER = _Place()


@dataclass(frozen=True)
class StepRecord:
    """How a step that ran ended. `attempts`: how often its component was called, or would have been (1) had its input been there."""

    id: str
    status: str
    attempts: int
    outcome: Any


@dataclass(frozen=True)
class ItemRecord:
    """An item's FlowResult, and its steps in document order; those that nobody needed are absent."""

    result: dict[str, Any]
    steps: list[StepRecord]


@dataclass
class Oracle:
    """One world: what components answer, and which flows are stored (id → document). `items`: every item that ran, of sub-runs too."""

    script: Script
    flows: Mapping[str, Any] = field(default_factory=dict)
    items: list[ItemRecord] = field(default_factory=list)
    max_iterations: int = 1000

    def run(self, flow: Any, value: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The FlowResult of one item. `variables`: as given to the run."""
        return _Item(self, flow, value, variables).run()


class _Item:
    def __init__(self, oracle: Oracle, flow: Any, value: Any, variables: Mapping[str, Any]) -> None:
        self.oracle = oracle
        self.flow = flow
        self.input = value
        self.given = variables
        declared = ((flow.get("schemas") or {}).get("properties") or {}).get("variables") or {}
        defaults = {name: schema["default"] for name, schema in (declared.get("properties") or {}).items() if "default" in schema}
        self.variables = {**defaults, **variables}
        self.steps = {step["id"]: step for step in flow.get("steps") or []}
        self.outcomes: dict[str, Any] = {}
        self.records: dict[str, StepRecord] = {}

    def run(self) -> dict[str, Any]:
        """Demand the output and what must execute; nothing else runs but what these need."""
        outcome = self.value(self.flow.get("output"), _OUTPUT)
        for step in self.steps.values():
            if step.get("mustExecute"):
                ended = self.outcome(step["id"])
                if isinstance(ended, Failed) and not isinstance(outcome, Failed):
                    outcome = ended
        result = _flow_result(outcome)
        steps = [self.records[name] for name in self.steps if name in self.records]
        self.oracle.items.append(ItemRecord(result, steps))
        return result

    # --- expressions: a JSON value, Failed or SKIP ---

    def value(self, expression: Any, place: _Place = _INNER) -> Any:
        """The value of an expression that stands at a place."""
        if isinstance(expression, list):
            return self._all([self.value(element, place) for element in expression])
        if not isinstance(expression, dict):
            return expression
        for key, form in _FORMS.items():
            if key in expression:
                return form(self, expression, place)
        values = self._all([self.value(member, place) for member in expression.values()])
        return dict(zip(expression, values, strict=True)) if isinstance(values, list) else values

    def _all(self, values: list[Any]) -> Any:
        """Everything is needed; the first failure in reading order goes before any skip."""
        for value in values:
            if isinstance(value, Failed):
                return value
        return SKIP if SKIP in [value for value in values if isinstance(value, Skip)] else values

    def _literal(self, expression: Any, _: _Place) -> Any:
        return expression["$literal"]

    def _if(self, expression: Any, place: _Place) -> Any:
        condition = self.value(expression["$if"], place)
        if condition is SKIP:
            return SKIP
        taken = not isinstance(condition, Failed) and _truthy(condition)
        return self.value(expression.get("then") if taken else expression.get("else"), place)

    def _coalesce(self, expression: Any, place: _Place) -> Any:
        for element in expression["$coalesce"]:
            value = self.value(element, place)
            if value is not None and value is not SKIP:
                return value
        return None

    def _step(self, expression: Any, place: _Place) -> Any:
        outcome = self.outcome(expression["$step"])
        if outcome is SKIP:
            on_skip = expression.get("onSkip") or {}
            if on_skip.get("action") == "useDefault":
                return self.value(on_skip.get("defaultValue"), place)
            return None if place.is_output else SKIP
        if isinstance(outcome, Failed):
            return replace(outcome, own=False)
        if outcome is None:
            return None
        return _at(outcome, expression.get("path"), "Path")

    def _input(self, expression: Any, _: _Place) -> Any:
        return _at(self.input, expression["$input"], "Input path")

    def _error(self, expression: Any, place: _Place) -> Any:
        return _at(place.error, expression["$error"], "Error path")

    def _variable(self, expression: Any, place: _Place) -> Any:
        name, *rest = _parts(expression["$variable"])
        found = _follow(self.variables[name], rest) if name in self.variables else _MISSING
        if found is not _MISSING:
            return found
        if "default" in expression:
            return self.value(expression["default"], place)
        return Failed("EXPRESSION_FAILURE", f"Undefined variable: {_shown([name, *rest]) if rest else name}")

    # --- steps ---

    def outcome(self, name: str) -> Any:
        """What the step's result is: a value, Failed or SKIP. It runs when first asked for, and once."""
        if name not in self.outcomes:
            self.outcomes[name], attempts, status = self._execute(self.steps[name])
            shown = self.outcomes[name]
            shown = shown.error if isinstance(shown, Failed) else None if shown is SKIP else shown
            self.records[name] = StepRecord(name, status, attempts, shown)
        return self.outcomes[name]

    def _execute(self, step: Any) -> tuple[Any, int, str]:
        skip = self.value(step.get("skip"))
        if skip is SKIP or (not isinstance(skip, Failed) and _truthy(skip)):
            return SKIP, 1, "skipped"
        on_error = step.get("onError") or {}
        value = skip if isinstance(skip, Failed) else self.value(step.get("input"))
        if value is SKIP:
            return SKIP, 1, "skipped"
        if isinstance(value, Failed):
            return self._no_input(on_error, value)
        return self._attempts(step["component"], value, on_error)

    def _no_input(self, on_error: Any, failed: Failed) -> tuple[Any, int, str]:
        """A step that it needs failed: the same failure, whatever `onError` says. An error of its own: never retried."""
        ended = self._instead(on_error, failed) if failed.own else failed
        return ended, 1, _status(ended)

    def _attempts(self, component: str, value: Any, on_error: Any) -> tuple[Any, int, str]:
        attempt, transport, retries = 1, TRANSPORT_RETRIES, on_error.get("maxRetries")
        left = 3 if retries is None else retries
        while True:
            ended = self._call(component, value, attempt)
            if not isinstance(ended, Failed):
                return ended, attempt, "success"
            if ended.code in TRANSPORT and transport and not ended.of_sub_run:  # that of a sub-run's step had its retries there
                transport -= 1
            elif ended.code in COMPONENT and left and (on_error.get("action") == "retry" or ended.retry_after_ms is not None):
                left -= 1
            else:
                ended = self._instead(on_error, ended)
                return ended, attempt, _status(ended)
            attempt += 1

    def _instead(self, on_error: Any, failed: Failed) -> Any:
        """The default where there is one, else the failure. A default that a skip takes away is null."""
        action = on_error.get("action")
        if action != "useDefault" and not (action == "retry" and on_error.get("defaultValue") is not None):
            return failed
        value = self.value(on_error.get("defaultValue"), _Place(error=failed.error))
        return None if value is SKIP else value

    # --- components ---

    def _call(self, component: str, value: Any, attempt: int) -> Any:
        if component in _BUILTINS:
            return _BUILTINS[component](self, value)
        answer = self.oracle.script(component, value, attempt)
        return answer.value if isinstance(answer, Ok) else Failed(answer.code, answer.message, True, answer.retry_after_ms)

    def _noop(self, value: Any) -> Any:
        return value

    def _sleep(self, value: Any) -> Any:
        if not _has(value, {"duration_ms", "duration", "until", "passthrough"}):
            return _invalid()
        given = [key for key in ("duration_ms", "duration", "until") if value.get(key) is not None]
        if len(given) != 1 or (
            given == ["duration_ms"] and not (_is_number(value["duration_ms"]) and 0 <= value["duration_ms"] <= YEAR_MS)
        ):
            return _invalid()
        return value.get("passthrough")

    def _wait(self, value: Any) -> Any:
        """The event of its key, whenever it came; the time is over where none comes. That is no lost worker, so it is not tried again."""
        named = _has(value, {"name", "key", "timeout"}) and isinstance(value.get("name"), str) and "/" not in value["name"]
        if not named or value.get("timeout") == "soon":
            return _invalid()
        if value["key"] == NEVER:
            return Failed("TIMEOUT", f"no event {value['name']!r} with key {NEVER!r} came in time", of_sub_run=True)
        return payload(value["key"])

    def _eval(self, value: Any) -> Any:
        flow = self._sub_flow(value, "flow", {"input", "variables"})
        variables = value.get("variables") if isinstance(flow, dict) else None
        if flow is None or not (variables is None or isinstance(variables, dict)):
            return _invalid()
        given = self.given if variables is None else variables
        return {"result": self.oracle.run(flow, value.get("input"), given), "run_id": RUN_ID}

    def _map(self, value: Any) -> Any:
        flow = self._sub_flow(value, "workflow", {"items", "max_concurrency"})
        if flow is None or not isinstance(value.get("items"), list) or not _is_count(value.get("max_concurrency"), 0):
            return _invalid()
        results = [self.oracle.run(flow, item, self.given) for item in value["items"]]
        successful = sum(result["outcome"] == "success" for result in results)
        return {"results": results, "successful": successful, "failed": len(results) - successful}

    def _iterate(self, value: Any) -> Any:
        flow = self._sub_flow(value, "flow", {"initial_input", "max_iterations"})
        if flow is None or not _is_count(value.get("max_iterations"), 1):
            return _invalid()
        limit = value.get("max_iterations") or self.oracle.max_iterations
        present = value.get("initial_input")
        for iteration in range(1, limit + 1):
            ended = self.oracle.run(flow, present, self.given)
            if ended["outcome"] == "failed":
                return Failed(ended["error"]["code"], ended["error"]["message"], of_sub_run=True)
            named = ended["result"] if isinstance(ended["result"], dict) else {}
            if "result" in named:
                return {"result": named["result"], "iterations": iteration, "terminated": False}
            if "next" not in named:
                return Failed("COMPONENT_FAILED", "Iteration flow output must contain either 'result' or 'next' field")
            present = named["next"]
        return {"result": present, "iterations": limit, "terminated": True}

    def _sub_flow(self, value: Any, key: str, others: set[str]) -> Any:
        """The document that a higher-order component was given, by text or by id; None when the input is no good."""
        if not _has(value, {key, "flow_id", *others}) or (value.get(key) is None) == (value.get("flow_id") is None):
            return None
        if value.get(key) is not None:
            return value[key]
        return self.oracle.flows.get(value["flow_id"]) if isinstance(value["flow_id"], str) else None


_FORMS: dict[str, Callable[[_Item, Any, Any], Any]] = {
    "$literal": _Item._literal, "$if": _Item._if, "$coalesce": _Item._coalesce, "$step": _Item._step, "$input": _Item._input,
    "$variable": _Item._variable, "$error": _Item._error,
}  # fmt: skip
_BUILTINS: dict[str, Callable[[_Item, Any], Any]] = {
    "/builtin/noop": _Item._noop, "/builtin/sleep": _Item._sleep, "/builtin/eval": _Item._eval, "/builtin/map": _Item._map,
    "/builtin/iterate": _Item._iterate, "/builtin/wait_for_event": _Item._wait,
}  # fmt: skip
_MISSING = object()
_PART = re.compile(r"""\.([^\s.\[\]]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]|\['([^'\\]*)'\]""")


def _flow_result(outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, Failed):
        return {"outcome": "failed", "error": outcome.error}
    return {"outcome": "success", "result": outcome}


def _status(ended: Any) -> str:
    return "failed" if isinstance(ended, Failed) else "success"


def _truthy(value: Any) -> bool:
    return value is not None and value is not False


def _invalid() -> Failed:
    return Failed("INVALID_INPUT", "")


def _has(value: Any, known: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() <= known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least)


def _parts(path: str | None) -> list[str | int]:
    if not path:
        return []
    if not path.startswith("$"):
        return [path]
    found = [_PART.match(path, at) for at in _starts(path)]
    return [
        int(part[2]) if part[2] else part[1] or (json.loads(f'"{part[3]}"') if part[3] is not None else part[4]) for part in found if part
    ]


def _starts(path: str) -> Iterator[int]:
    at = 1
    while at < len(path):
        yield at
        part = _PART.match(path, at)
        assert part is not None, path
        at = part.end()


def _follow(value: Any, parts: list[str | int]) -> Any:
    for part in parts:
        inside = isinstance(value, dict) and part in value if isinstance(part, str) else isinstance(value, list) and part < len(value)
        if not inside:
            return _MISSING
        value = value[part]
    return value


def _at(value: Any, path: str | None, what: str) -> Any:
    parts = _parts(path)
    found = _follow(value, parts)
    if found is not _MISSING:
        return found
    return Failed("EXPRESSION_FAILURE", f"{what} {_shown(parts)} not found")


def _shown(parts: list[Any]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
