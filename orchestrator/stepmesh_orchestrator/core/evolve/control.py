"""Appliers of what people do to runs: pausing, going on, and results that a run takes over from another one."""

from __future__ import annotations

from collections.abc import Iterable

from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.flow.plan import SKIPPED
from stepmesh_orchestrator.core.seeds import Seed
from stepmesh_orchestrator.core.state import DONE, Item, State

REUSED = 0
"""The attempt of a step that has its result from another run: none was made."""


def run_paused(state: State, event: events.RunPaused, at_ms: int) -> None:
    """The tree has no slot to give."""
    state.trees[event.run].paused_ms = at_ms


def run_resumed(state: State, event: events.RunResumed, at_ms: int) -> None:
    """It has again."""
    state.trees[event.run].paused_ms = 0


def run_seeded(state: State, event: events.RunSeeded, at_ms: int) -> None:
    """They wait for their items, and for sub-runs, to start."""
    run = state.runs[event.run]
    run.seeds = {index: seeds for index, seeds in enumerate(event.seeds) if seeds}
    run.tree.inherited.pop(event.run, None)
    for one in event.below:
        run.tree.inherited[one.run] = one


def plant(state: State, item: Item, seeds: Iterable[Seed], at_ms: int) -> None:
    """The item begins with these outcomes. One whose flow is gone has no steps to give them to."""
    for seed in seeds:
        step = seed.step
        if step < len(item.outcomes):
            item.phases[step] = DONE
            item.outcomes[step] = SKIPPED if seed.output is None else seed.output
            item.wait(step).attempt = REUSED
            item.times[(step << 1) + 1] = at_ms
            item.positions[step] = state.at
