"""Status events as the text of Server-Sent Events, in Stepflow's shape. Pure."""

from __future__ import annotations

import msgspec

from stepmesh_gateway.http.messages import Camel, ErrorNumber, Json, Rfc3339, Status, Uint32, Uint64
from stepmesh_gateway.http.views import raw, rfc3339
from stepmesh_gateway.translate.status_events import EventType, StatusEvent

HELLO = b"retry: 2000\n: hi\n\n"
HEARTBEAT = b": hb\n\n"


class Happened(Camel, frozen=True, kw_only=True):
    """What an event tells, as far as its kind has it."""

    run_id: str
    parent_run_id: str | None = None
    flow_id: str | None = None
    item_count: Uint32 | None = None
    item_index: Uint32 | None = None
    step_index: Uint32 | None = None
    step_id: str | None = None
    step_ids: tuple[str, ...] | None = None
    attempt: Uint32 | None = None
    status: Status | None = None
    result: Json | None = None
    error_message: str | None = None
    error_code: ErrorNumber | None = None
    error_data: Json | None = None


class Event(Camel, frozen=True, kw_only=True):
    """The `data` of an event. `event` has one member, named by what happened: `RunCreated`, `StepStarted`, …"""

    sequence_number: Uint64
    timestamp: Rfc3339
    event: dict[str, Happened]


_OF_STEP = frozenset({EventType.STEP_STARTED, EventType.STEP_COMPLETED, EventType.STEP_READY})
_OF_ITEM = _OF_STEP | {EventType.ITEM_COMPLETED, EventType.STEPS_NEEDED}
_BIRTHS = frozenset({EventType.RUN_CREATED, EventType.SUB_RUN_CREATED})
_ENDS = frozenset({EventType.STEP_COMPLETED, EventType.RUN_COMPLETED})
_VARIANTS = {kind: kind.name.title().replace("_", "") for kind in EventType}
_NAMES = {kind: kind.name.lower().encode() for kind in EventType}


def frame(event: StatusEvent) -> bytes:
    """One event, with its kind as name, and its position as id if whoever comes back with it has missed nothing."""
    data = msgspec.json.encode(
        Event(sequence_number=event.position, timestamp=rfc3339(event.at_ms), event={_VARIANTS[event.type]: _happened(event)})
    )
    place = b"" if event.more else b"id: %d\n" % event.position
    return b"%bevent: %b\ndata: %b\n\n" % (place, _NAMES[event.type], b"\ndata: ".join(data.splitlines()))


def end(position: int) -> bytes:
    """The last event: whoever comes back behind it gets nothing."""
    return b"id: %d\nevent: end\ndata: {}\n\n" % position


def _happened(event: StatusEvent) -> Happened:
    kind, error = event.type, event.error
    return Happened(
        run_id=event.run,
        parent_run_id=event.parent if kind is EventType.SUB_RUN_CREATED else None,
        flow_id=event.flow if kind in _BIRTHS else None,
        item_count=event.items if kind in _BIRTHS else None,
        item_index=event.item if kind in _OF_ITEM else None,
        step_index=event.step if kind in _OF_STEP else None,
        step_id=event.step_id if kind in _OF_STEP else None,
        step_ids=event.step_ids if kind is EventType.STEPS_NEEDED else None,
        attempt=event.attempt if kind is EventType.STEP_STARTED else None,
        status=event.status if kind in _ENDS else None,
        result=raw(event.result),
        error_message=None if error is None else error.message,
        error_code=None if error is None else int(error.code),
        error_data=None if error is None else raw(error.data),
    )
