"""`/wait_for_event`, `/approval`: steps that wait for somebody outside. Bad input is INVALID_INPUT at once, a wait that is over TIMEOUT."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.decide import failure, waits
from stepmesh_orchestrator.core.decide.addresses import name_problem
from stepmesh_orchestrator.core.decide.waits import Awaited
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.flow.durations import parse_duration_ms
from stepmesh_orchestrator.core.instants import parse_instant_ms
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item, Run


class _WaitForEvent(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    key: str | int | None = None
    timeout: str | float | None = None
    since: str | float | None = None


class _Approval(msgspec.Struct, forbid_unknown_fields=True):
    title: str | None = None
    description: str | None = None
    timeout: str | float | None = None
    approvers: list[str] | None = None


_wait_input = msgspec.json.Decoder(_WaitForEvent)
_approval_input = msgspec.json.Decoder(_Approval)


def wait_for_event(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """The output is the event's data. Without a key it is the run's own address, where all that was ever sent counts."""
    try:
        request = _wait_input.decode(value)
        key = item.run.id if request.key is None else str(request.key)
        problem = name_problem(request.name, key)
        if problem is not None:
            raise ValueError(problem)
        since_ms = 0 if request.key is None and request.since is None else _since_ms(item.run, request.since)
        due_ms = _due_ms(session, request.timeout)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        _bad_input(session, item, step, f"/wait_for_event: {problem}")
        return
    waits.begin(session, item, step.index, Awaited(request.name, key, since_ms), due_ms)


def approval(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """The output is `{approved, by, comment, at}`. Its token names the step, so whoever may read the run may decide."""
    try:
        request = _approval_input.decode(value)
        due_ms = _due_ms(session, request.timeout)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        _bad_input(session, item, step, f"/approval: {problem}")
        return
    shown = {"title": request.title, "description": request.description, "approvers": request.approvers}
    decision = msgspec.json.encode({name: given for name, given in shown.items() if given is not None})
    waits.begin(session, item, step.index, Awaited(decision=decision), due_ms)


def _since_ms(run: Run, since: str | float | None) -> int:
    """A time, or a duration before the run's start; by default that start itself."""
    if since is None:
        return run.created_ms
    try:
        return run.created_ms - parse_duration_ms(since)
    except ValueError:
        return parse_instant_ms(str(since))


def _due_ms(session: Session, timeout: str | float | None) -> int:
    return 0 if timeout is None else session.now + parse_duration_ms(timeout)


def _bad_input(session: Session, item: Item, step: CompiledStep, message: str) -> None:
    failure.attempt_failed(session, item, step, Failure(ErrorCode.INVALID_INPUT, message))
