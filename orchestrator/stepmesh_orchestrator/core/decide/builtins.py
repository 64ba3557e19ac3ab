"""Built-in components that the core itself carries out: they need no worker, only the journal. Bad input is INVALID_INPUT at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from stepmesh_broker.protocol.messages import ErrorCode, Failure, TaskRef
from stepmesh_orchestrator.core.decide import awaiting, failure, results, subruns
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.events import StepSleeping
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.flow.durations import parse_duration_ms
from stepmesh_orchestrator.core.instants import parse_instant_ms
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item

MAX_SLEEP_MS = 366 * 24 * 3_600_000
"""A year: the longest `/sleep`."""


class _Sleep(msgspec.Struct, forbid_unknown_fields=True):
    duration_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    duration: str | float | None = None
    until: str | None = None
    passthrough: msgspec.Raw = msgspec.Raw(b"null")


_sleep_input = msgspec.json.Decoder(_Sleep)


def noop(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """The output is the input."""
    results.complete(session, item, step.index, value)


def sleep(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """A durable timer; the output is `passthrough`."""
    try:
        request = _sleep_input.decode(value)
        due = _due(request, session.now)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        failure.attempt_failed(session, item, step, Failure(ErrorCode.INVALID_INPUT, f"/sleep: {problem}"))
        return
    session.emit(StepSleeping(item.run.id, item.index, step.index, due, bytes(request.passthrough)))
    session.cause(SetTimer(due, TaskRef(item.run.id, item.index, step.index, item.attempt(step.index))))


def _due(request: _Sleep, now: int) -> int:
    given = [request.duration_ms is not None, request.duration is not None, request.until is not None]
    if sum(given) != 1:
        raise ValueError("give one of duration_ms, duration, until")
    if request.duration_ms is not None:
        due = now + int(request.duration_ms)
    elif request.duration is not None:
        due = now + parse_duration_ms(request.duration)
    else:
        due = parse_instant_ms(str(request.until))
    if due - now > MAX_SLEEP_MS:
        raise ValueError("longer than a year")
    return due


CORE: dict[str, Callable[[Session, Item, CompiledStep, bytes], None]] = {
    "/noop": noop,
    "/sleep": sleep,
    "/eval": subruns.evaluate,
    "/map": subruns.map_items,
    "/iterate": subruns.iterate,
    "/wait_for_event": awaiting.wait_for_event,
    "/approval": awaiting.approval,
}
"""By component id, under the `builtin` plugin."""
