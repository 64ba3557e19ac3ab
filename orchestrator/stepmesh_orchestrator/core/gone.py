"""Runs whose flow was deleted after they had ended, in a replay of the time when they lived.

Of such a run everything is replayed but its steps: that it was created, its items and results, its end. What its steps did concerns nobody
any more; only the sub-runs that they started may still live. A live run always has its flow.
"""

from __future__ import annotations

from stepmesh_orchestrator.core.events import Event, RunCreated
from stepmesh_orchestrator.core.flow.compile import compile_stored
from stepmesh_orchestrator.core.state import IDLE, Item, State

GONE = compile_stored(b'{"steps":[]}')
"""Stands for every flow that is gone."""


def can_be_applied(state: State, event: Event) -> bool:
    """Whether an event of a replay with such runs makes sense; makes room in a parent that has no steps for those of its sub-runs."""
    if isinstance(event, RunCreated):
        parent = None if event.parent is None else state.runs.get(event.parent.run)
        if parent is not None and parent.flow is GONE and event.parent is not None and event.parent.item in parent.items:
            _widen(parent.items[event.parent.item], event.parent.step + 1)
        return True
    run = state.runs.get(event.run)
    if run is None or run.flow is not GONE or not hasattr(event, "step"):
        return True
    state.at += 1
    return False


def _widen(item: Item, steps: int) -> None:
    missing = steps - len(item.outcomes)
    if missing > 0:
        item.outcomes.extend([None] * missing)
        item.phases.extend(bytes([IDLE] * missing))
        item.times.extend([0] * (2 * missing))
        item.positions.extend([0] * missing)
