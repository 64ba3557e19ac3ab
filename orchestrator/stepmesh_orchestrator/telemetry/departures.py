"""Attempts in flight as telemetry needs them: where they went and when, from their dispatch until they are over.

Invariant: a result lands once, and only for the attempt that was dispatched last; so what telemetry counts is what the core accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Result, Results, Task
from stepmesh_orchestrator.core.state import RUNNING, Item, State
from stepmesh_orchestrator.telemetry.observer import Key

UNKNOWN_POOL = "unknown"
"""Of an attempt whose pool a recovery cannot tell."""


class Departed(NamedTuple):
    """An attempt that was dispatched at `at_ms`. `component`: as the worker names it."""

    pool: str
    component: str
    attempt: int
    at_ms: int


class Landed(NamedTuple):
    """An attempt that ended: by a result of `worker`, or given up (None, "")."""

    departed: Departed
    result: Result | None
    worker: str

    @property
    def queue_s(self) -> float:
        """From dispatch to the component's first line, by two clocks, so never below 0. 0 without a result."""
        return 0.0 if self.result is None else max(0.0, self.result.started_us / 1e6 - self.departed.at_ms / 1e3)


class Departures:
    """Of one shard: run → item → step → attempt. Items and runs without an attempt in flight take no memory."""

    def __init__(self) -> None:
        self._runs: dict[RunId, dict[int, dict[int, Departed]]] = {}

    def __len__(self) -> int:
        """Attempts in flight."""
        return sum(len(steps) for items in self._runs.values() for steps in items.values())

    def launch(self, tasks: Mapping[str, Sequence[Task]], at_ms: int) -> None:
        """A turn dispatched these."""
        for pool, ready in tasks.items():
            for task in ready:
                self._put(task.run, task.item, task.step, Departed(pool, task.component, task.attempt, at_ms))

    def land(self, batches: Sequence[Results]) -> dict[Key, Landed]:
        """Results that a turn took: those that count, by step."""
        landed: dict[Key, Landed] = {}
        for batch in batches:
            worker = batch.worker
            for result in batch.results:
                key = (result.run, result.item, result.step)
                departed = self._take(key, result.attempt)
                if departed is not None:
                    landed[key] = Landed(departed, result, worker)
        return landed

    def give_up(self, key: Key) -> Landed | None:
        """An attempt failed without a result; None when none was in flight."""
        departed = self._take(key, None)
        return None if departed is None else Landed(departed, None, "")

    def leave(self, run: RunId, item: int) -> dict[int, Departed]:
        """The item ended: its attempts that nobody waits for any more, by step."""
        items = self._runs.get(run)
        return {} if items is None else items.pop(item, {})

    def forget(self, run: RunId) -> None:
        """The run ended."""
        self._runs.pop(run, None)

    def adopt(self, state: State, pools: Mapping[Key, str]) -> None:
        """What was in flight before a recovery."""
        for run in state.runs.values():
            for item in run.items.values():
                for step, phase in enumerate(item.phases[:-1]):
                    if phase == RUNNING:
                        pool = pools.get((run.id, item.index, step), UNKNOWN_POOL)
                        began_ms = attempt_began_ms(item, step)
                        self._put(run.id, item.index, step, Departed(pool, run.flow.steps[step].component, item.attempt(step), began_ms))

    def _put(self, run: RunId, item: int, step: int, departed: Departed) -> None:
        items = self._runs.get(run)
        if items is None:
            items = self._runs[run] = {}
        steps = items.get(item)
        if steps is None:
            items[item] = {step: departed}
        else:
            steps[step] = departed

    def _take(self, key: Key, attempt: int | None) -> Departed | None:
        """`attempt`: only if it is this one; None = whichever it is."""
        run, item, step = key
        items = self._runs.get(run)
        steps = None if items is None else items.get(item)
        departed = None if steps is None else steps.get(step)
        if items is None or steps is None or departed is None or attempt not in (None, departed.attempt):
            return None
        if len(steps) == 1:
            del items[item]
        else:
            del steps[step]
        return departed


def attempt_began_ms(item: Item, step: int) -> int:
    """When the present attempt began, from the state alone: the first one at the step's start, a later one when it was due."""
    wait = None if item.waits is None else item.waits.get(step)
    return item.times[step << 1] if wait is None or wait.attempt == 1 else wait.due_ms
