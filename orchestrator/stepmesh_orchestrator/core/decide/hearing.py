"""Results and events of a durable function in their order: an event that comes after a timer, another event or the end of a sub-run
waits at its home until the body has heard of that. For the body may give its wait up then, and an event that the run took for that wait
would be lost to the next one.

Derived, and derived again when the function is read back. Knows nothing of what a body waits for, or why.
"""

from __future__ import annotations

from stepmesh_broker.protocol.histories import Settled
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.functions import Unheard
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item

LONGEST_MS = 24 * 3_600_000
"""How old an event may be that waits, where events are kept for twice as long: an older one is taken, whatever the body heard, before it is
forgotten."""
MOST_ROUNDS = 10
"""How often an event waits: in a function that never rests there is always something that its body has not heard."""
ASKED_AT_ONCE = 10
"""Events that are asked for when the body has heard: it takes one of them, and the others wait again."""


def settled(item: Item, step: int) -> None:
    """Something was settled: the body is to hear of all records up to now."""
    function = item.function(step)
    if function is not None:
        if item.unheard is None:
            item.unheard = {}
        known = _unheard(item, step)
        if known is None:
            item.unheard[step] = Unheard(function, len(function.records), {}, {})
        else:
            known.through = len(function.records)


def read_back(item: Item, step: int) -> None:
    """What its body heard since a worker let go of it is not known."""
    function = item.function(step)
    if function is not None and any(isinstance(record, Settled) for record in function.records[function.seen :]):
        settled(item, step)


def is_early(session: Session, item: Item, step: int, command: str, at_ms: int) -> bool:
    """Whether an event from then is to wait. It is asked for once more when the body has heard, or has not for long."""
    unheard = _unheard(item, step)
    until_ms = at_ms + min(LONGEST_MS, session.settings.keep_events_ms // 2)
    if unheard is None or not unheard.through or until_ms <= session.now or unheard.rounds.get(command, 0) >= MOST_ROUNDS:
        return False
    if command not in unheard.late:
        unheard.late[command] = None
        unheard.rounds[command] = unheard.rounds.get(command, 0) + 1
    renewals = item.renewals = item.renewals or {}
    if not session.now < renewals.get(step, 0) < until_ms:
        renewals[step] = until_ms
        session.cause(SetTimer(until_ms, TaskRef(item.run.id, item.index, step, 0)))
    return True


def heard(item: Item, step: int, records: int) -> list[str]:
    """The body has heard so many records. Commands whose events are to be asked for now."""
    unheard = _unheard(item, step)
    if unheard is None or records < unheard.through or item.unheard is None:
        return []
    unheard.through = 0
    asked = [command for command in unheard.late if command in unheard.of.open][:ASKED_AT_ONCE]
    for command in asked:
        del unheard.late[command]
    if not asked:
        del item.unheard[step]
    return asked


def _unheard(item: Item, step: int) -> Unheard | None:
    """Of the function that there is now: one that began anew is another."""
    unheard = None if item.unheard is None else item.unheard.get(step)
    return unheard if unheard is not None and unheard.of is item.function(step) else None
