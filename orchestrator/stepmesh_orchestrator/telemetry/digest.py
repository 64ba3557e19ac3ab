"""What ended in a turn, as spans and metrics need it."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.events import Event, ItemEnded, RunCreated, RunEnded, StepDefaulted, StepFailed, StepRetrying, TreeWoken
from stepmesh_orchestrator.telemetry.departures import Departed, Departures, Landed
from stepmesh_orchestrator.telemetry.observer import Key, TurnRecord

_FAILED = frozenset((StepRetrying, StepFailed, StepDefaulted))


@dataclass(slots=True)
class Digest:
    """`landed`: attempts that ended, by step. `abandoned`: attempts still in flight of items that ended, by item. `notable`: failures of
    attempts, and ends of runs. `created`: whether a run began, or came back."""

    landed: dict[Key, Landed]
    abandoned: dict[tuple[RunId, int], dict[int, Departed]] = field(default_factory=dict)
    notable: list[StepRetrying | StepFailed | StepDefaulted | RunEnded] = field(default_factory=list)
    created: bool = False


def digest(record: TurnRecord, departures: Departures) -> Digest:
    """Take the turn's ends out of what is in flight, and put its dispatches in."""
    found = Digest(departures.land(record.results))
    for event in record.events:
        kind = type(event)
        if kind is ItemEnded:
            if left := departures.leave(event.run, event.item):  # type: ignore[union-attr]  # narrowed by identity, for speed
                found.abandoned[event.run, event.item] = left  # type: ignore[union-attr]  # as above
        elif kind in _FAILED or kind is RunEnded:
            _note(event, departures, found)
        elif kind is RunCreated or kind is TreeWoken:
            found.created = True
    departures.launch(record.tasks, record.at_ms)
    return found


def _note(event: Event, departures: Departures, found: Digest) -> None:
    if isinstance(event, RunEnded):
        departures.forget(event.run)
        found.notable.append(event)
    elif isinstance(event, (StepRetrying, StepFailed, StepDefaulted)):
        key = (event.run, event.item, event.step)
        if key not in found.landed and (gone := departures.give_up(key)) is not None:
            found.landed[key] = gone
        found.notable.append(event)
