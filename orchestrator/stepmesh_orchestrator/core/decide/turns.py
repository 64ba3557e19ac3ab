"""What of a worker's turn counts: which of its records are appended and how, and who may speak for an activation.

It reads and decides nothing by itself: functions.py appends.
"""

from __future__ import annotations

from stepmesh_broker.protocol.functions import FunctionTurn
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Record, Settled, Tried
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.decide import results
from stepmesh_orchestrator.core.functions import Function


def closed_by(function: Function, turn: FunctionTurn) -> list[str]:
    """What the turn gives up of what is open; each new driver tells all that was ever given up."""
    asked = {record.id for record in turn.records if isinstance(record, Issued)} if turn.abandoned else set[str]()
    return [id for id in turn.abandoned if id in function.open or id in asked or id in function.kept]


def takes_over(function: Function, turn: FunctionTurn, taken: list[Record]) -> str:
    """The version of code that issues something where another one did before; "" for any other turn."""
    pinned = function.pinned()
    is_other = pinned and turn.version and turn.version != pinned and not is_left(function, turn)
    return turn.version if is_other and any(isinstance(record, Issued) for record in taken) else ""


def is_left(function: Function, turn: FunctionTurn) -> bool:
    """Whether the turn is of other code than was chosen for the function while it had this activation, or before it."""
    return bool(turn.number) and function.leaves == turn.task.attempt and turn.version != function.pinned()


def gives_over(function: Function, turn: FunctionTurn, now: int) -> bool:
    """Whether code that is left has nothing under way but what may be done again, so that it is to let go of the function."""
    if not is_left(function, turn):
        return False
    at_work = any(one.kind is Kind.STEP and function.retries.get(one.id, now) <= now for one in function.commands())
    return turn.exact or bool(turn.blocked) or not at_work


def speaks_over(function: Function, turn: FunctionTurn) -> bool:
    """Whether the turn would issue what another driver of the same activation may have issued already: its task came twice."""
    if not function.driver or turn.driver == function.driver or not any(isinstance(record, Issued) for record in turn.records):
        return False
    return any(isinstance(record, Issued) for record in function.records[turn.base :])


def is_overtaken(function: Function, turn: FunctionTurn) -> bool:
    """Whether the body went on from records that would not stand where it took them to stand."""
    return turn.exact and turn.base != len(function.records)


def taken_as(function: Function, turn: FunctionTurn, record: Record, now: int) -> Record | None:
    """The record as it is appended; None for one that is not a worker's to bring. Its time is the turn's, unless the body went on with
    its own, which no worker's clock sets beyond that."""
    now = min(now, record.at_ms) if turn.exact else now
    if isinstance(record, Settled | Tried) and not _is_local(function, turn, record.id):
        return None
    if isinstance(record, Settled):
        if record.failure is None and results.checked_json(record.value) is None:
            problem = Failure(ErrorCode.WORKER_ERROR, f"the value of {record.id} is not valid JSON, or nested too deep")
            return Settled(record.id, now, failure=problem, attempt=record.attempt)
        return Settled(record.id, now, record.value, record.failure, record.attempt)
    if isinstance(record, Tried):
        due = now + max(0, record.due_ms - record.at_ms)
        return Tried(record.id, now, record.attempt, record.failure, due)
    if isinstance(record, Began):
        return None if function.began() is not None else record
    return record if isinstance(record, Issued) and record.id not in function.open else None


def is_as_said(taken: list[Record], turn: FunctionTurn) -> bool:
    """Whether all of it was appended, and no value as a failure; of an exact turn also, whether with its times."""
    said = turn.records
    pairs = zip(taken, said, strict=False)
    if turn.exact:
        return taken == said
    return len(taken) == len(said) and all(
        one.failure is two.failure for one, two in pairs if isinstance(one, Settled) and isinstance(two, Settled)
    )


def _is_local(function: Function, turn: FunctionTurn, id: str) -> bool:
    """Whether it is a step that the worker itself does, and that waits for its result."""
    asked = function.asked(id) or next((one for one in turn.records if isinstance(one, Issued) and one.id == id), None)
    return asked is not None and asked.kind is Kind.STEP
