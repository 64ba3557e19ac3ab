"""Settling a wait by its token: who decides, and with what; and what is said of a token whose wait does not stand.

A token is told once more by whoever is not sure that it arrived, so the same decision again is no refusal. That the token is genuine was
looked at before.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepmesh_broker.protocol.histories import Settled
from stepmesh_broker.protocol.letters import Waiter
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, Refused
from stepmesh_orchestrator.core.commands import SettleWait
from stepmesh_orchestrator.core.decide import addresses, results, waits
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.instants import instant_text
from stepmesh_orchestrator.core.projection import step_row
from stepmesh_orchestrator.core.rows import StepRow
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item


class _Decision(msgspec.Struct, forbid_unknown_fields=True):
    approved: bool | None = None
    by: str | None = None
    comment: str | None = None


_decision = msgspec.json.Decoder(_Decision | bool | str | None)
_object = msgspec.json.Decoder(dict[str, Any])


def settle_wait(session: Session, command: SettleWait) -> None:
    """The step goes on with what it is given. Of an item that is over, nothing is known here."""
    waiter = command.waiter
    run = session.state.runs.get(waiter.run)
    item = None if run is None else run.items.get(waiter.item)
    if item is None:
        session.cause(Answered(token_refused("expired: its step is over")))
    elif waits.is_open(item, waiter):
        _settle(session, item, command)
    elif waiter.command:
        session.cause(Answered(_told_of_function(item, command)))
    else:
        known = 0 <= waiter.step < len(item.outcomes) and item.outcomes[waiter.step] is not None
        session.cause(Answered(told_of_ended(step_row(item, waiter.step) if known else None, command)))


def _settle(session: Session, item: Item, command: SettleWait) -> None:
    waiter = command.waiter
    value = results.checked_json(command.value)
    refusal = addresses.data_refusal(session, value)
    decision = None if waiter.command else waits.awaited_of(item, waiter.step).decision
    made = refusal or _made(session, decision, value or b"null", command.rejected)
    if isinstance(made, Refused):
        session.cause(Answered(made))
        return
    waits.settle(session, item, waiter, made)
    session.cause(Answered(Accepted(waiter.run)))


def _told_of_function(item: Item, command: SettleWait) -> Accepted | Refused:
    """Of a promise of a durable function that does not stand any more, or never did."""
    waiter = command.waiter
    function = item.function(waiter.step) if 0 <= waiter.step < len(item.outcomes) else None
    records = [] if function is None else function.records
    settled = next((record for record in records if isinstance(record, Settled) and record.id == waiter.command), None)
    if settled is None:
        return token_refused("expired: nobody waits for it any more" if function is not None else "unknown: no such wait is known")
    same = settled.failure is None and not command.rejected and settled.value == results.checked_json(command.value)
    rejected = settled.failure is not None and command.rejected and settled.failure.data == results.checked_json(command.value)
    return Accepted(waiter.run, existing=True) if same or rejected else token_refused(f"settled already at {instant_text(settled.at_ms)}")


def told_of_ended(row: StepRow | None, command: SettleWait) -> Accepted | Refused:
    """The answer to whoever would settle a step that has ended; None: no such step waited."""
    if row is None:
        return token_refused("unknown: no such wait is known")
    when = "" if row.finished_ms is None else f" at {instant_text(row.finished_ms)}"
    if command.waiter.command:
        return token_refused(f"expired: its step is over{when}")
    if row.status != "success" or row.failure is not None or row.output is None:
        return token_refused(f"expired: its wait ended without an answer{when}")
    if _is_same(row.output, command):
        return Accepted(command.waiter.run, existing=True)
    return token_refused(f"settled already{when}")


def token_refused(why: str) -> Refused:
    """SM-1060."""
    return Refused("SM-1060", f"this token is {why}", "`stepmesh explain RUN` shows what waits, with its token")


def _made(session: Session, decision: bytes | None, value: bytes, rejected: bool) -> bytes | Failure | Refused:
    """What the step ends with."""
    if decision is None:
        return Failure(ErrorCode.COMPONENT_FAILED, f"rejected: {value[:1000].decode()}", value) if rejected else value
    found = _decided(value, rejected)
    if found is None:
        example = '{"approved": true, "by": "ann", "comment": "…"}'
        return Refused("SM-5203", f"an approval takes a decision, not {value[:100].decode(errors='replace')}", f"send {example}")
    allowed = _object.decode(decision).get("approvers")
    if allowed is not None and found.by not in allowed:
        return Refused("SM-5204", f"{found.by or 'nobody'} is not among those who may decide", f"by is one of: {', '.join(allowed)}")
    at = instant_text(session.now)
    return msgspec.json.encode({"approved": found.approved, "by": found.by, "comment": found.comment, "at": at})


def _decided(value: bytes, rejected: bool) -> _Decision | None:
    """`null` is yes, a text is a comment; a rejection is no, whatever else it says. None for what is no decision."""
    try:
        found = _decision.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not isinstance(found, _Decision):
        found = _Decision(found, None, None) if isinstance(found, bool) else _Decision(found is None or rejected or None, None, found)
    if rejected:
        found.approved = False
    return None if found.approved is None else found


def _is_same(output: bytes, command: SettleWait) -> bool:
    if not command.rejected and output == results.checked_json(command.value):
        return True
    found = _decided(command.value, command.rejected)
    try:
        recorded = _object.decode(output)
    except msgspec.MsgspecError:
        return False
    recorded.pop("at", None)
    return found is not None and recorded == {"approved": found.approved, "by": found.by, "comment": found.comment}


def waiter_row(waiter: Waiter, steps: list[StepRow]) -> StepRow | None:
    """Of the steps of an ended item, the one that waited."""
    same = (row for row in steps if row.step == waiter.step and (row.attempt == waiter.attempt or waiter.command))
    return next(same, None)
