"""How many runs of a workflow may go at once, how often one may begin, which of several counts: as a decorator says it, and as a flow does.

Invariant: it only translates; what the keys mean, and whether they make sense, is for the flow language (docs/flow-control.md) to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from stepmesh.durable.errors import BadWorkflow
from stepmesh.values import expression

_GATES = ("debounce", "concurrency", "throttle", "idempotency")


class FlowControl(TypedDict, total=False):
    """`concurrency`: `{key, limit, policy}`; `throttle`: `"100/m"` or `{rate, key}`; `debounce`: `{key, period, max}`;
    `idempotency`: `{key}`. `priority`: -100 to 100. A key is `"input.customer_id"`, or an expression of the flow language."""

    concurrency: Mapping[str, Any]
    throttle: str | Mapping[str, Any]
    debounce: Mapping[str, Any]
    idempotency: Mapping[str, Any]
    priority: int


def of_flow(given: FlowControl) -> dict[str, Any]:
    """What stands at the top of the flow. Raises `BadWorkflow` for a key that is not of the input."""
    return {name: _gate(given[name]) for name in _GATES if name in given}  # type: ignore[literal-required]


def of_step(given: FlowControl) -> dict[str, Any]:
    """What stands in the step that is the workflow."""
    return {"priority": given["priority"]} if "priority" in given else {}


def _gate(given: str | Mapping[str, Any]) -> Any:
    if isinstance(given, str):
        return given
    return {name: _key(value) if name == "key" else value for name, value in given.items()}


def _key(given: Any) -> Any:
    if not isinstance(given, str):
        return expression(given)
    head, dot, path = given.partition(".")
    if head != "input" or (dot and not path):
        raise BadWorkflow(
            f"{given!r} is no key of runs",
            hint='write "input.customer_id", or an expression of the flow language such as {"$variable": "tenant"}',
        )
    return {"$input": f"$.{path}" if path else "$"}
