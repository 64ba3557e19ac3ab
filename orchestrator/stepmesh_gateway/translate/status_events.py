"""Run events as stepflow.v1 tells them: one value for each, from which protobuf and REST are written.

What Stepflow has no word for (retries, waits, progress) is left out, with its position: those that remain keep theirs, so that a
reader may go on behind any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec
from msgspec import structs

from stepmesh_broker.protocol.api import RunEvent
from stepmesh_broker.protocol.ids import RunId
from stepmesh_gateway.translate.execution import ABSENT, Error, ExecutionStatus, error_of, execution_status


class EventType(IntEnum):
    """`stepflow.v1.StatusEventType`; the lower-case name is the field of the message, and the event's name in SSE."""

    RUN_CREATED = 1
    STEP_STARTED = 2
    STEP_COMPLETED = 3
    STEP_READY = 4
    ITEM_COMPLETED = 5
    RUN_COMPLETED = 6
    SUB_RUN_CREATED = 7
    STEPS_NEEDED = 8


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A `stepflow.v1.StatusEvent`; only the fields of its `type` are set. `result`: JSON. `more`: another event of this position follows
    (they happened in one), so that whoever goes on behind this position would miss it."""

    position: int
    at_ms: int
    type: EventType
    run: RunId
    item: int = 0
    step: int = 0
    step_id: str | None = None
    attempt: int = 0
    status: ExecutionStatus = ExecutionStatus.UNSPECIFIED
    result: bytes | None = None
    error: Error | None = None
    flow: str = ""
    parent: RunId | None = None
    items: int = 0
    step_ids: tuple[str, ...] = ()
    more: bool = False


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader wants of the events of `run`. `types`: empty for all of them."""

    run: RunId
    types: frozenset[EventType] = frozenset()
    sub_runs: bool = False
    results: bool = False

    def wanted(self, events: Sequence[RunEvent]) -> Iterator[StatusEvent]:
        """Those of a page that the reader wants."""
        held: StatusEvent | None = None
        for event in events:
            told = status_event(event, self.results) if self.sub_runs or event.run == self.run else None
            if told is None or (self.types and told.type not in self.types):
                continue
            if held is not None:
                yield structs.replace(held, more=True) if held.position == told.position else held
            held = told
        if held is not None:
            yield held


class _Data(msgspec.Struct, frozen=True):
    """What `RunEvent.data` may hold; all of it optional, whatever the kind."""

    status: str = ""
    attempt: int = 0
    step: int = 0
    steps: list[str] = []
    items: int = 0
    flow_id: str = ""
    parent_run_id: RunId | None = None
    result: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


_data = msgspec.json.Decoder(_Data).decode
_TYPES = {
    "run_created": EventType.RUN_CREATED,
    "steps_needed": EventType.STEPS_NEEDED,
    "step_ready": EventType.STEP_READY,
    "step_started": EventType.STEP_STARTED,
    "step_completed": EventType.STEP_COMPLETED,
    "step_failed": EventType.STEP_COMPLETED,
    "step_defaulted": EventType.STEP_COMPLETED,
    "step_skipped": EventType.STEP_COMPLETED,
    "step_reused": EventType.STEP_COMPLETED,
    "item_completed": EventType.ITEM_COMPLETED,
    "run_completed": EventType.RUN_COMPLETED,
}
_ENDS = {"step_failed": ExecutionStatus.FAILED, "step_completed": ExecutionStatus.COMPLETED}


def status_event(event: RunEvent, results: bool = True) -> StatusEvent | None:
    """An event as Stepflow tells it; None for what it has no word for."""
    kind = _TYPES.get(event.kind)
    if kind is None:
        return None
    data = _data(event.data)
    if kind is EventType.RUN_CREATED and data.parent_run_id is not None:
        kind = EventType.SUB_RUN_CREATED
    return StatusEvent(
        position=event.position,
        at_ms=event.at_ms,
        type=kind,
        run=event.run,
        item=event.item or 0,
        step=data.step,
        step_id=event.step_id,
        attempt=data.attempt,
        status=_status(event.kind, kind, data),
        result=bytes(data.result) if results and data.result else None,
        error=error_of(bytes(data.error)) if data.error and event.kind != "step_defaulted" else None,
        flow=data.flow_id,
        parent=data.parent_run_id,
        items=data.items,
        step_ids=tuple(data.steps),
    )


def _status(kind: str, type_: EventType, data: _Data) -> ExecutionStatus:
    if type_ is EventType.RUN_COMPLETED:
        return execution_status(data.status)
    if type_ is EventType.STEP_COMPLETED:
        return execution_status(data.status) if data.status else _ENDS.get(kind, ExecutionStatus.COMPLETED)
    return ExecutionStatus.UNSPECIFIED


def behind(since: int | None) -> int:
    """The position behind which to read, for a reader that asks for the events from `since` on (Stepflow counts that one in)."""
    return 0 if since is None else max(0, since - 1)
