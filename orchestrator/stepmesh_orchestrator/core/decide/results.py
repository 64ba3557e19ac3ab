"""Results of attempts: the first one of the attempt that is in flight counts; all others are dropped and counted."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.commands import EndTask, FailAttempt
from stepmesh_orchestrator.core.decide import breakers, parking, places
from stepmesh_orchestrator.core.decide import failure as failing
from stepmesh_orchestrator.core.decide.step_keys import asker
from stepmesh_orchestrator.core.events import StepSucceeded
from stepmesh_orchestrator.core.flow.jsontext import depth_at_most
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import RUNNING, Item

_raw = msgspec.json.Decoder(msgspec.Raw)
_CODES = frozenset(ErrorCode)


def end_task(session: Session, command: EndTask) -> None:
    """A worker is done with an attempt."""
    result = command.result
    item = in_flight(session, result.run, result.item, result.step, result.attempt)
    if item is None:
        session.stale_results += 1
        return
    places.end(session, item, result.step)
    step = item.run.flow.steps[result.step]
    failure = result.failure
    if failure is None and result.output is not None:
        output = checked_json(result.output)
        if output is None:
            failure = Failure(
                ErrorCode.WORKER_ERROR, f"the worker's output for step '{step.id}' is not valid JSON, or nested deeper than {PAYLOAD_DEPTH}"
            )
        elif step.output_schema is not None and (violations := step.output_schema.violations(output)):
            failure = Failure(ErrorCode.COMPONENT_FAILED, "output does not match the step's schema: " + "; ".join(violations))
        else:
            function = item.function(step.index)
            if session.troubles or session.state.permits.breakers:
                breakers.succeeded(session, step)
            complete(session, item, step.index, output)
            if function is not None:
                parking.end(session, item, step.index, function.commands())
            return
    failure = _checked(failure, step.id)
    breakers.failed(session, step, failure.code, asker(item, step.index))
    failing.attempt_failed(session, item, step, failure)


def fail_attempt(session: Session, command: FailAttempt) -> None:
    """The runtime gave an attempt up."""
    task = command.task
    item = in_flight(session, task.run, task.item, task.step, task.attempt)
    if item is None:
        session.stale_results += 1
        return
    places.end(session, item, task.step)
    step = item.run.flow.steps[task.step]
    breakers.failed(session, step, command.failure.code, asker(item, step.index))
    failing.attempt_failed(session, item, step, command.failure)


def complete(session: Session, item: Item, step: int, output: bytes) -> None:
    """The step has its output."""
    session.emit(StepSucceeded(item.run.id, item.index, step, output))
    session.resolve(item, step)


def in_flight(session: Session, run_id: RunId, index: int, step: int, attempt: int) -> Item | None:
    """The item whose step has exactly this attempt in flight; None for anything else, however odd the numbers."""
    run = session.state.runs.get(run_id)
    item = run.items.get(index) if run is not None else None
    if item is None or not 0 <= step < len(item.outcomes) or item.phases[step] != RUNNING or item.attempt(step) != attempt:
        return None
    return item


def checked_json(output: bytes) -> bytes | None:
    """The one JSON value in `output`, without space around it; None when it is none, not UTF-8, or nested too deeply to be worked with."""
    try:
        value = bytes(_raw.decode(output))
        if not value.isascii():
            value.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value if depth_at_most(value, PAYLOAD_DEPTH) else None


def _checked(failure: Failure | None, step_id: str) -> Failure:
    if failure is None:
        return Failure(ErrorCode.WORKER_ERROR, f"the worker's result for step '{step_id}' has neither output nor failure")
    if failure.code not in _CODES:
        return Failure(ErrorCode.WORKER_ERROR, f"the worker failed with code {failure.code}, which does not exist: {failure.message}")
    if failure.data is not None and checked_json(failure.data) is None:
        return Failure(failure.code, failure.message, None, failure.retry_after_ms)
    return failure
