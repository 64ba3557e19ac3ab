"""Status events of a run, read from the journal: what happened to it and its sub-runs, in order.

A position is frame × 1,000,000 + index in the frame: it grows, and survives restarts because the journal does. What belongs to a run is
known only by reading from its creation on, so that is remembered: who follows a run reads each frame once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from stepmesh_broker.protocol.api import Events, RunEvent
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import events as core_events
from stepmesh_orchestrator.core.events import Event, RunCreated, RunEnded, decode_turn
from stepmesh_orchestrator.core.failures import error_json, flow_result
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.ports import Journal
from stepmesh_orchestrator.runtime.flows import FlowRegistry

PER_FRAME = 1_000_000
_KINDS: dict[type, str] = {
    core_events.RunCreated: "run_created",
    core_events.ItemStarted: "item_started",
    core_events.StepDispatched: "step_started",
    core_events.StepSucceeded: "step_completed",
    core_events.StepFailed: "step_failed",
    core_events.StepDefaulted: "step_defaulted",
    core_events.StepSkipped: "step_skipped",
    core_events.StepRetrying: "step_retrying",
    core_events.StepSleeping: "step_sleeping",
    core_events.StepFallingBack: "step_falling_back",
    core_events.ItemEnded: "item_completed",
    core_events.RunEnded: "run_completed",
    core_events.RunCancelled: "run_cancelled",
}


KEPT = 256
"""Runs whose family is remembered. Forgetting one costs its next reader a scan from the run's creation."""


@dataclass(slots=True)
class _Family:
    """A run and what was created below it, as of frame `known`; `latest` is the position of its last event up to there.

    Readers share it: it only grows, and whoever was created later has no event before."""

    top: RunId
    known: int
    latest: int = 0
    ended: bool = False
    flows: dict[RunId, CompiledFlow | None] = field(default_factory=dict[RunId, CompiledFlow | None])

    def start(self, after: int) -> int:
        """The frame behind which a reader at position `after` begins: nothing between the last event and `known` is of this family."""
        return self.known if after >= self.latest else min(self.known, after // PER_FRAME - 1)


class History:
    """The events of the runs of one journal, for readers that come back for more."""

    def __init__(self, journal: Journal, flows: FlowRegistry) -> None:
        self._journal = journal
        self._flows = flows
        self._families: OrderedDict[RunId, _Family] = OrderedDict()

    async def page(self, run: RunRow, after: int, limit: int, max_bytes: int) -> Events:
        """The events of `run` and its sub-runs above position `after`: at most `limit`, and no more than `max_bytes` in all of which the
        first may be larger. Raises `JournalError`."""
        family = self._family(run)
        found: list[RunEvent] = []
        if family.ended and after >= family.latest:
            return Events(found, ended=True)
        size = 0
        async for frame in self._journal.read(run.partition, after=max(run.created_sequence - 1, family.start(after))):
            turn = decode_turn(frame.payload)
            for index, event in enumerate(turn.events):
                if not await self._belongs(event, family):
                    continue
                position = frame.sequence * PER_FRAME + index
                family.latest = max(family.latest, position)
                if position > after:
                    told = _status_event(event, position, turn.at_ms, family)
                    size += len(told.data)
                    if len(found) >= limit or (found and size > max_bytes):
                        return Events(found, ended=False)
                    found.append(told)
                if isinstance(event, RunEnded) and event.run == family.top:
                    family.ended = True
                    return Events(found, ended=True)
            family.known = max(family.known, frame.sequence)
        return Events(found, ended=False)

    def _family(self, run: RunRow) -> _Family:
        family = self._families.get(run.run)
        if family is None:
            family = self._families[run.run] = _Family(run.run, run.created_sequence - 1)
            if len(self._families) > KEPT:
                self._families.popitem(last=False)
        self._families.move_to_end(run.run)
        return family

    async def _belongs(self, event: Event, family: _Family) -> bool:
        if isinstance(event, RunCreated):
            related = event.run == family.top or (event.parent is not None and event.parent.run in family.flows)
            if related and event.run not in family.flows:
                family.flows[event.run] = await self._flows.load(event.flow, event.overrides)
            return related
        return event.run in family.flows


def _status_event(event: Event, position: int, at_ms: int, family: _Family) -> RunEvent:
    step: int | None = getattr(event, "step", None)
    flow = family.flows.get(event.run)
    step_id = None if step is None or flow is None else flow.steps[step].id
    return RunEvent(position, at_ms, _KINDS[type(event)], event.run, getattr(event, "item", None), step_id, _data(event))


def _data(event: Event) -> bytes:
    """What the event adds, as a JSON object."""
    if isinstance(event, core_events.RunCreated):
        about: dict[str, object] = {"flow_id": event.flow, "items": len(event.inputs)}
        if event.parent is not None:
            parent = event.parent
            about |= {"parent_run_id": parent.run, "parent_kind": parent.kind, "parent_item": parent.item, "parent_step": parent.step}
        return msgspec.json.encode(about)
    if isinstance(event, core_events.StepDispatched):
        return msgspec.json.encode({"attempt": event.attempt})
    if isinstance(event, core_events.StepSucceeded):
        return b'{"result":' + event.output + b"}"
    if isinstance(event, core_events.StepDefaulted):
        return b'{"result":' + event.output + b',"error":' + error_json(event.failure) + b"}"
    if isinstance(event, core_events.StepFailed | core_events.StepFallingBack):
        return b'{"error":' + error_json(event.failure) + b"}"
    if isinstance(event, core_events.StepRetrying):
        return b'{"attempt":%d,"due_ms":%d,"error":%b}' % (event.attempt, event.due_ms, error_json(event.failure))
    if isinstance(event, core_events.StepSleeping):
        return msgspec.json.encode({"due_ms": event.due_ms})
    if isinstance(event, core_events.ItemEnded):
        return flow_result(event.failure if event.failure is not None else event.output or b"null")
    if isinstance(event, core_events.RunEnded):
        return msgspec.json.encode({"status": event.status})
    if isinstance(event, core_events.RunCancelled):
        return msgspec.json.encode({"reason": event.reason})
    return b"{}"
