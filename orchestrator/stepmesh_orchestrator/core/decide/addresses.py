"""Home of addresses: an event from outside is kept and offered to everybody who waits, a waiter is offered the oldest event that it may
take. An offer stands, and is told again when asked or after a recovery, until its waiter unsubscribes."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import partition_of, scope_of
from stepmesh_broker.protocol.letters import Deliver, Subscribe, Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import EventKept, Refused, SendEvent
from stepmesh_orchestrator.core.addresses import Address, Kept, Place, waiter_key
from stepmesh_orchestrator.core.commands import KeepEvent
from stepmesh_orchestrator.core.decide.results import checked_json
from stepmesh_orchestrator.core.effects import Answered, Send
from stepmesh_orchestrator.core.events import EventReceived, WaiterLeft, WaiterPlaced
from stepmesh_orchestrator.core.session import Session

NAME, KEY, ID = 128, 512, 256
"""Characters of an event's name, key and id at most."""


def name_problem(name: str, key: str) -> str | None:
    """What is wrong with an address; None when nothing is."""
    if not 1 <= len(name) <= NAME or "/" in name or not name.isprintable():
        return f"an event's name is 1 to {NAME} printable characters without '/', not {name[:40]!r}"
    if len(key) > KEY or not (key.isprintable() or not key):
        return f"an event's key is {KEY} printable characters at most, not {key[:40]!r}"
    return None


def keep_event(session: Session, command: KeepEvent) -> None:
    """Once by its id, while that is remembered."""
    event = command.event
    data = checked_json(event.data)
    refusal = _refusal(session, event, data)
    if refusal is not None:
        session.cause(Answered(refusal))
        return
    place = Place(scope_of(event.namespace, event.key), event.name, event.key)
    address = session.state.addresses.get(place)
    if address is not None and event.id in address.events:
        session.cause(Answered(EventKept(event.id, 0, existing=True)))
        return
    dropped = _without_room(session, address)
    session.emit(EventReceived(place.name, place.key, event.id, data or b"null", dropped, place.scope))
    session.cause(Answered(EventKept(event.id, _offer_all(session, place, event.id))))


def _offer_all(session: Session, place: Place, event: str) -> int:
    address = session.state.addresses.made(place)
    kept = address.events[event]
    free = [one for one in address.waiters.values() if not one.offered and one.since_ms <= kept.at_ms]
    for standing in free:
        _offer(session, place, standing.waiter, standing.since_ms, kept)
    return len(free)


def subscribe(session: Session, letter: Subscribe) -> None:
    """One that was offered an event, and does not say that it had it, is told again."""
    place, waiter = Place(letter.scope, letter.name, letter.key), letter.waiter
    address = session.state.addresses.get(place) or Address()
    standing = address.waiters.get(waiter_key(waiter))
    if standing is not None and standing.offered and standing.offered not in letter.taken:
        kept = address.at(standing.offered)
        if kept is not None:
            _tell(session, place, waiter, standing.since_ms, kept)
            return
    first = address.first(letter.since_ms, letter.taken)
    if first is not None:
        _offer(session, place, waiter, letter.since_ms, first)
    elif standing is None or standing.offered or standing.since_ms != letter.since_ms:
        session.emit(WaiterPlaced(place.name, place.key, waiter, letter.since_ms, 0, place.scope))


def unsubscribe(session: Session, letter: Unsubscribe) -> None:
    """Nothing for one that is not here."""
    address = session.state.addresses.get(Place(letter.scope, letter.name, letter.key))
    if address is not None and waiter_key(letter.waiter) in address.waiters:
        session.emit(WaiterLeft(letter.name, letter.key, letter.waiter, letter.scope))


def tell_again(session: Session) -> None:
    """All offers that stand: after a recovery, for they may never have left."""
    for text, address in session.state.addresses.places.items():
        for standing in address.waiters.values():
            kept = address.at(standing.offered) if standing.offered else None
            if kept is not None:
                _tell(session, Place.of(text), standing.waiter, standing.since_ms, kept)


def _offer(session: Session, place: Place, waiter: Waiter, since_ms: int, kept: Kept) -> None:
    session.emit(WaiterPlaced(place.name, place.key, waiter, since_ms, kept.position, place.scope))
    _tell(session, place, waiter, since_ms, kept)


def _tell(session: Session, place: Place, waiter: Waiter, since_ms: int, kept: Kept) -> None:
    letter = Deliver(place.name, place.key, waiter, since_ms, kept.position, kept.id, kept.at_ms, kept.payload, place.scope)
    session.cause(Send(partition_of(waiter.root or waiter.run, session.partitions), letter))


def _without_room(session: Session, address: Address | None) -> int:
    """Up to which position the events of the address go when one more comes; 0: none."""
    over = 0 if address is None else len(address.events) + 1 - session.settings.events_per_address
    return 0 if address is None or over <= 0 else [kept.position for kept in address.events.values()][over - 1]


def _refusal(session: Session, event: SendEvent, data: bytes | None) -> Refused | None:
    problem = name_problem(event.name, event.key)
    if problem is None and not (1 <= len(event.id) <= ID and event.id.isprintable()):
        problem = f"an event's id is 1 to {ID} printable characters, not {event.id[:40]!r}"
    if problem is not None:
        return _bad(problem)
    refusal = data_refusal(session, data)
    kept, limit = session.state.addresses.size, session.settings.kept_event_bytes
    if refusal is None and kept + len(event.data) > limit:
        hint = "events go after their retention; shorten it, or send less"
        return Refused("SM-5202", f"{kept} bytes of events are kept here, the limit is {limit}", hint)
    return refusal


def data_refusal(session: Session, data: bytes | None) -> Refused | None:
    """What is wrong with what somebody outside sends (None: it is no JSON); None when nothing is."""
    if data is None:
        return _bad("its data is not JSON, or nested too deeply")
    limit = session.settings.event_bytes
    if len(data) > limit:
        return Refused("SM-5201", f"the data has {len(data)} bytes, the limit is {limit}", "store it as a blob and send the blob's id")
    return None


def _bad(problem: str) -> Refused:
    return Refused("SM-5200", f"this event cannot be taken: {problem}", "see docs/flows.md, Events")
