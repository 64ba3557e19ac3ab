"""How far the steps of a run are, summed up over its items. Pure: statuses in, one state and a note per step out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stepmesh_broker.protocol.api import StepStatus

ORDER = (
    "failed", "retrying", "running", "child", "parked", "awaiting", "sleeping", "queued", "fetching", "waiting", "cancelled", "success",
    "skipped", "not_needed",
)  # fmt: skip
"""Which status stands for a step whose items differ: the first of these that one has."""
COLOURS: Mapping[str, str] = {
    "failed": "#f4b6b6", "retrying": "#f9d9a6", "running": "#b9d7f7", "child": "#b9d7f7", "sleeping": "#d9ccf2", "queued": "#dbe7f5",
    "awaiting": "#d9ccf2", "parked": "#d9ccf2", "fetching": "#dbe7f5", "waiting": "#e8eef5", "cancelled": "#d8d8d8", "success": "#bfe5c4",
    "skipped": "#efefef", "not_needed": "#fafafa",
}  # fmt: skip
TERMINAL: Mapping[str, str] = {
    "failed": "red", "retrying": "yellow", "running": "blue", "child": "blue", "sleeping": "magenta", "awaiting": "magenta",
    "parked": "magenta",
    "queued": "cyan", "fetching": "cyan", "waiting": "cyan", "cancelled": "bright_black", "success": "green",
    "skipped": "bright_black", "not_needed": "bright_black",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepState:
    """`status` is one of `ORDER`; `note` tells the counts when there are several items."""

    status: str
    note: str


NOT_NEEDED = StepState("not_needed", "not_needed")
"""Of a step that no item tells of."""


def states_of(statuses: Iterable[StepStatus], items: int) -> dict[int, StepState]:
    """By step index. A step that no item tells of is not needed so far."""
    counts: dict[int, Counter[str]] = {}
    for one in statuses:
        counts.setdefault(one.step, Counter())[one.status] += 1
    return {step: _state(count, items) for step, count in counts.items()}


def _state(count: Counter[str], items: int) -> StepState:
    ranked = sorted(count, key=lambda status: ORDER.index(status) if status in ORDER else len(ORDER))
    note = ranked[0] if items == 1 else ", ".join(f"{count[status]} {status}" for status in ranked)
    return StepState(ranked[0], note)
