"""The durable functions of a run as its journal tells of them, whether or not the run has ended.

Invariant: a history is folded as the appliers fold it; nothing is decided here and nothing changed. Events of frames that do not name
the run are not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.events import Event, StepDefaulted, StepFailed, StepRetrying, decode_turn_about
from stepmesh_orchestrator.core.function_events import (
    FunctionContinued,
    FunctionsSeeded,
    FunctionTookOver,
    FunctionUnwound,
    HistoryGrew,
)
from stepmesh_orchestrator.core.function_reuse import PastFunction, begun, unwound
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.seeds import FunctionSeed
from stepmesh_orchestrator.ports import Journal, JournalTrimmed

Place = tuple[int, int]
"""Item and step."""


async def past_functions(journal: Journal, run: RunRow, items: Collection[int] | None = None) -> Mapping[Place, PastFunction] | None:
    """Those of the run, or of these items of it; None when the journal does not reach back to the run's beginning."""
    reader = _Reader(run.run, items)
    try:
        async for frame in journal.read(run.partition, after=run.created_sequence - 1):
            if run.finished_sequence is not None and frame.sequence > run.finished_sequence:
                break
            turn = decode_turn_about(frame.payload, run.run)
            if turn is not None:
                for event in turn.events:
                    reader.take(event, turn.at_ms)
    except JournalTrimmed:
        return None
    return reader.found


class _Reader:
    def __init__(self, run: RunId, items: Collection[int] | None) -> None:
        self._run = run
        self._items = items
        self._seeds: dict[Place, FunctionSeed] = {}
        self.found: dict[Place, PastFunction] = {}
        self._readers: dict[type, Callable[[PastFunction, Any, int], None]] = {
            HistoryGrew: _grew,
            FunctionContinued: _continued,
            FunctionTookOver: self._took_over,
            FunctionUnwound: _unwound,
            StepRetrying: _retrying,
            StepFailed: _failed,
            StepDefaulted: _failed,
        }

    def take(self, event: Event, at_ms: int) -> None:
        """One after the other."""
        if event.run != self._run:
            return
        if isinstance(event, FunctionsSeeded):
            self._seeds = {(seed.item, seed.step): seed for seed in event.seeds}
            return
        read = self._readers.get(type(event))
        item, step = getattr(event, "item", -1), getattr(event, "step", -1)
        if read is None or (self._items is not None and item not in self._items):
            return
        known = self.found.get((item, step))
        if known is None and isinstance(event, HistoryGrew | FunctionTookOver):
            known = self.found[item, step] = PastFunction(item, step)
        if known is not None:
            read(known, event, at_ms)

    def _took_over(self, past: PastFunction, event: FunctionTookOver, at_ms: int) -> None:
        seed = self._seeds[past.item, past.step]
        past.function = begun(seed, at_ms, anew=event.anew)
        past.abandoned = {} if event.anew else dict.fromkeys(seed.abandoned, 0)


def _grew(past: PastFunction, event: HistoryGrew, at_ms: int) -> None:
    for record in event.records:
        past.function.append(record)
    for id in event.abandoned:
        past.function.close(id)
        past.abandoned.setdefault(id, len(past.function.records))


def _continued(past: PastFunction, event: FunctionContinued, at_ms: int) -> None:
    past.function, past.abandoned = Function(input=event.input), {}


def _unwound(past: PastFunction, event: FunctionUnwound, at_ms: int) -> None:
    past.function, past.abandoned = unwound(past.function, at_ms), {}


def _retrying(past: PastFunction, event: StepRetrying, at_ms: int) -> None:
    if not event.transport:
        past.function, past.abandoned = Function(), {}


def _failed(past: PastFunction, event: StepFailed | StepDefaulted, at_ms: int) -> None:
    past.failure = event.failure
