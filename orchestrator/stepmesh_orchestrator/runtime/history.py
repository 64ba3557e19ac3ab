"""Status events of a run, read from the journal: what happened to it and its sub-runs, in order.

A position is frame × 1,000,000 + index in the frame: it grows, and survives restarts because the journal does.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stepmesh_broker.protocol.api import Events, RunEvent
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.core import events as core_events
from stepmesh_orchestrator.core.events import Event, RunCreated, RunEnded, decode_turn
from stepmesh_orchestrator.core.failures import error_json, flow_result
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
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


@dataclass(slots=True)
class _Family:
    """The runs that are listened to: the one asked for, and what was created below it."""

    top: RunId
    flows: dict[RunId, CompiledFlow | None]
    ended: bool = False


async def read_events(
    journal: Journal, flows: FlowRegistry, partition: Partition, run: RunId, created_sequence: int, after: int, limit: int
) -> Events:
    """The events of `run` and its sub-runs above position `after`, at most `limit`."""
    family = _Family(run, {})
    found: list[RunEvent] = []
    async for frame in journal.read(partition, after=max(0, created_sequence - 1)):
        turn = decode_turn(frame.payload)
        for index, event in enumerate(turn.events):
            if not await _belongs(event, family, flows):
                continue
            position = frame.sequence * PER_FRAME + index
            if position > after:
                found.append(_status_event(event, position, turn.at_ms, family))
            if isinstance(event, RunEnded) and event.run == family.top:
                return Events(found, ended=True)
            if len(found) >= limit:
                return Events(found, ended=False)
    return Events(found, ended=False)


async def _belongs(event: Event, family: _Family, flows: FlowRegistry) -> bool:
    if isinstance(event, RunCreated):
        related = event.run == family.top or (event.parent is not None and event.parent.run in family.flows)
        if related:
            family.flows[event.run] = await flows.load(event.flow, event.overrides)
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
