"""Timers and events of a durable function in their order: an event that comes after a timer waits at its home until the body has heard of
the timer. For the body may give its wait up then, and an event that the run took for that wait would be lost to the next one.

Derived, and derived again when the function is read back. Knows nothing of what a timer limits.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepmesh_broker.protocol.histories import Issued, Kind, Record, Settled
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.functions import Rung
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item

LONGEST_MS = 24 * 3_600_000
"""How old an event may be that waits, where events are kept for twice as long: an older one is taken, whatever the body heard, before it is
forgotten."""


def rang(item: Item, step: int) -> None:
    """Timers are settled: the body is to hear of all records up to now."""
    function = item.function(step)
    if function is not None:
        if item.rung is None:
            item.rung = {}
        known = _rung(item, step)
        item.rung[step] = Rung(function, len(function.records), known is not None and known.is_late)


def read_back(item: Item, step: int) -> None:
    """What its body heard since a worker let go of it is not known."""
    function = item.function(step)
    if function is not None and _timers_among(function.records, function.seen):
        rang(item, step)


def is_early(session: Session, item: Item, step: int, at_ms: int) -> bool:
    """Whether an event from then is to wait. It is asked for once more when the body has heard, or has not for long."""
    rung = _rung(item, step)
    until_ms = at_ms + min(LONGEST_MS, session.settings.keep_events_ms // 2)
    if rung is None or until_ms <= session.now:
        return False
    rung.is_late = True
    renewals = item.renewals = item.renewals or {}
    if not session.now < renewals.get(step, 0) < until_ms:
        renewals[step] = until_ms
        session.cause(SetTimer(until_ms, TaskRef(item.run.id, item.index, step, 0)))
    return True


def heard(item: Item, step: int, records: int) -> bool:
    """The body has heard so many records. Whether events wait for that."""
    rung = _rung(item, step)
    if rung is None or item.rung is None or records < rung.through:
        return False
    del item.rung[step]
    return rung.is_late


def _rung(item: Item, step: int) -> Rung | None:
    """Of the function that there is now: one that began anew is another."""
    rung = None if item.rung is None else item.rung.get(step)
    return rung if rung is not None and rung.of is item.function(step) else None


def _timers_among(records: Sequence[Record], first: int) -> bool:
    ended = {record.id for record in records[first:] if isinstance(record, Settled)}
    return bool(ended) and any(isinstance(one, Issued) and one.kind is Kind.TIMER and one.id in ended for one in records)
