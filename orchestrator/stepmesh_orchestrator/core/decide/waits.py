"""Waits for events from outside, where their runs live: asking the address's home, taking what it delivers, telling it when that is over.

Invariant: a run takes an event of an address once, however often it is delivered, and two waits of it at one address take two events. A
wait that stands is asked for again after a recovery; what comes for one that does not is sent off.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stepmesh_broker.protocol.histories import Issued, Kind, Settled
from stepmesh_broker.protocol.ids import home_of, scope_of
from stepmesh_broker.protocol.letters import Deliver, Subscribe, Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import ErrorCode, Failure, TaskRef
from stepmesh_orchestrator.core.addresses import Place
from stepmesh_orchestrator.core.decide import failure, hearing, news, results
from stepmesh_orchestrator.core.effects import Send, SetTimer
from stepmesh_orchestrator.core.events import StepAwaiting, WaitOver
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import AWAITING, Item

RENEWED_MS = 3 * 24 * 3_600_000
"""How often a wait asks again, whatever became of its letters: before the event that it missed is forgotten."""
FOR_EVER = 1 << 62


class Awaited(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step waits for: an event of the address (name, key), or its token alone when there is no `name`. `decision`: the JSON that
    those who decide are shown; none for a wait that takes any value."""

    name: str = ""
    key: str = ""
    since_ms: int = 0
    decision: bytes | None = None


class _Keyed(msgspec.Struct):
    key: str = ""


_keyed = msgspec.json.Decoder(_Keyed)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Awaited)


def awaited_json(encoded: bytes) -> bytes:
    """For readers: the address, or what is to be decided."""
    awaited = _decoder.decode(encoded)
    if awaited.name:
        return b'{"event":%b,"key":%b}' % (msgspec.json.encode(awaited.name), msgspec.json.encode(awaited.key))
    return awaited.decision or b"{}"


def awaited_of(item: Item, step: int) -> Awaited:
    """Of a step that waits."""
    return _decoder.decode(item.wait(step).output or b"")


def subscribe(session: Session, item: Item, step: int, command: str, name: str, key: str, since_ms: int) -> None:
    """Wait at an address, from now on or still. `command`: which wait of the step; "" when it has one at most."""
    taken = _taken(item, name, key)
    scope = scope_of(item.run.namespace, key)
    _send(session, Subscribe(name, key, waiter_of(item, step, command), since_ms, taken, scope))


def unsubscribe(session: Session, item: Item, step: int, command: str, name: str, key: str) -> None:
    """That wait is over, and took nothing."""
    waiter, scope = waiter_of(item, step, command), scope_of(item.run.namespace, key)
    session.emit(WaitOver(name, key, waiter, 0, scope))
    _send(session, Unsubscribe(name, key, waiter, scope))


def waiter_of(item: Item, step: int, command: str) -> Waiter:
    """The name of a wait of the step's present attempt; of a durable function, whichever activation there is."""
    run, root = item.run.id, item.run.tree.root
    return Waiter(run, item.index, step, 0 if command else item.attempt(step), command, "" if root == run else root)


def begin(session: Session, item: Item, step: int, awaited: Awaited, due_ms: int) -> None:
    """A step of a flow waits from now on, until `due_ms` (0: for as long as it takes)."""
    session.emit(StepAwaiting(item.run.id, item.index, step, due_ms, _encoder.encode(awaited)))
    renew(session, item, step)


def renew(session: Session, item: Item, step: int) -> None:
    """A step of a flow waits still: ask for its event, and look at it again when its time is over, or after long."""
    ask(session, item, step)
    due = min(item.wait(step).due_ms or FOR_EVER, session.now + RENEWED_MS)
    session.cause(SetTimer(due, TaskRef(item.run.id, item.index, step, item.attempt(step))))


def ask(session: Session, item: Item, step: int) -> None:
    """Ask for the event of a step of a flow."""
    awaited = awaited_of(item, step)
    if awaited.name:
        subscribe(session, item, step, "", awaited.name, awaited.key, awaited.since_ms)


def ring(session: Session, item: Item, step: int) -> None:
    """A timer of a wait: it is over, or is renewed."""
    due_ms = item.wait(step).due_ms
    if not due_ms or due_ms > session.now:
        renew(session, item, step)
        return
    give_up(session, item, step)
    late = Failure(ErrorCode.TIMEOUT, _too_late(awaited_of(item, step)))
    failure.attempt_failed(session, item, item.run.flow.steps[step], late, no_worker=True)


def _too_late(awaited: Awaited) -> str:
    if not awaited.name:
        return "nobody decided in time"
    return f"no event {awaited.name!r} with key {awaited.key!r} came in time"


def give_up(session: Session, item: Item, step: int) -> None:
    """A step of a flow waits no more, whatever the reason."""
    awaited = awaited_of(item, step)
    if awaited.name:
        unsubscribe(session, item, step, "", awaited.name, awaited.key)


def give_up_all(session: Session, item: Item) -> None:
    """The item ends."""
    if AWAITING in item.phases:
        for step, phase in enumerate(item.phases):
            if phase == AWAITING:
                give_up(session, item, step)
    for step in item.functions or ():
        function = item.function(step)
        if function is not None:
            leave(session, item, step, function.commands())


def leave(session: Session, item: Item, step: int, commands: Iterable[Issued]) -> None:
    """A durable function waits for these commands no more: for events among them nobody does."""
    for command in commands:
        if command.kind is Kind.EVENT:
            _leave_but(session, item, step, command)


def stand(session: Session, item: Item, step: int, command: Issued, since_ms: int) -> None:
    """A durable function waits for an event, from now on or still."""
    for key in keys_of(item, command):
        subscribe(session, item, step, command.id, command.name, key, since_ms)


def keys_of(item: Item, command: Issued) -> tuple[str, ...]:
    """Of the addresses that a durable function waits at: without a key it hears whoever names the event alone, or the run."""
    key = _keyed.decode(command.arguments).key
    return (key,) if key else ("", item.run.id)


def _leave_but(session: Session, item: Item, step: int, command: Issued, taken: str | None = None) -> None:
    for key in keys_of(item, command):
        if key != taken:
            unsubscribe(session, item, step, command.id, command.name, key)


def tell_over(session: Session, over: WaitOver) -> None:
    """Tell the home once more that a wait is over: after a recovery, when that may never have left."""
    _send(session, Unsubscribe(over.name, over.key, over.waiter, over.scope))


def deliver(session: Session, letter: Deliver) -> None:
    """An event for a wait of a run. A dormant run is told again: whoever brings letters wakes their runs first."""
    state, waiter = session.state, letter.waiter
    run = state.runs.get(waiter.run)
    if run is None and waiter.run in state.dormant:
        _send(session, Subscribe(letter.name, letter.key, waiter, letter.since_ms, [], letter.scope))
        return
    item = None if run is None else run.items.get(waiter.item)
    if item is None or not is_awaited(item, letter):
        _send(session, Unsubscribe(letter.name, letter.key, waiter, letter.scope))
    elif waiter.command and hearing.is_early(session, item, waiter.step, waiter.command, letter.at_ms):
        news.tell(session, item, waiter.step)  # the offer stands, and is told again when it is asked for
    elif letter.position in (taken := _taken(item, letter.name, letter.key)):
        _send(session, Subscribe(letter.name, letter.key, waiter, letter.since_ms, taken, letter.scope))
    else:
        session.emit(WaitOver(letter.name, letter.key, waiter, letter.position, letter.scope))
        _send(session, Unsubscribe(letter.name, letter.key, waiter, letter.scope))
        receive(session, item, letter)


def is_awaited(item: Item, letter: Deliver) -> bool:
    """Whether that very wait for an event still stands."""
    if not is_open(item, letter.waiter):
        return False
    if letter.waiter.command:
        command = _command(item, letter.waiter)
        if command is None or command.kind is not Kind.EVENT:
            return False
        return command.name == letter.name and letter.key in keys_of(item, command)
    awaited = awaited_of(item, letter.waiter.step)
    return (awaited.name, awaited.key) == (letter.name, letter.key)


def is_open(item: Item, waiter: Waiter) -> bool:
    """Whether a wait still stands, of whatever kind. Steps of flows have one each, without a command."""
    if not 0 <= waiter.step < len(item.outcomes):
        return False
    if waiter.command:
        return _command(item, waiter) is not None
    return item.phases[waiter.step] == AWAITING and item.attempt(waiter.step) == waiter.attempt


def receive(session: Session, item: Item, event: Deliver) -> None:
    """Hand an event to the wait that took it: the one place where that happens. A step of a flow has its output."""
    waiter = event.waiter
    if waiter.command:
        _settle(session, item, waiter, event.payload, taken=event.key)
    else:
        results.complete(session, item, waiter.step, event.payload)


def settle(session: Session, item: Item, waiter: Waiter, outcome: bytes | Failure) -> None:
    """End a wait by its token, likewise the one place where that happens."""
    step = waiter.step
    if waiter.command:
        _settle(session, item, waiter, outcome)
        return
    give_up(session, item, step)
    if isinstance(outcome, bytes):
        results.complete(session, item, step, outcome)
    else:
        failure.attempt_failed(session, item, item.run.flow.steps[step], outcome, no_worker=True)


def _settle(session: Session, item: Item, waiter: Waiter, outcome: bytes | Failure, taken: str | None = None) -> None:
    """A wait of a durable function is over; `taken`: the key of the address whose event it took."""
    command = _command(item, waiter)
    if command is not None and command.kind is Kind.EVENT:
        _leave_but(session, item, waiter.step, command, taken)
    value, failed = (outcome, None) if isinstance(outcome, bytes) else (b"null", outcome)
    news.settle(session, item, waiter.step, Settled(waiter.command, session.now, value, failed))


def _command(item: Item, waiter: Waiter) -> Issued | None:
    """That a durable function waits for, as an event or a promise."""
    function = item.function(waiter.step)
    command = None if function is None else function.asked(waiter.command)
    return command if command is not None and command.kind in (Kind.EVENT, Kind.PROMISE) else None


def _taken(item: Item, name: str, key: str) -> list[int]:
    taken = item.run.taken
    return [] if taken is None else list(taken.get(Place("", name, key).text, ()))


def _send(session: Session, letter: Subscribe | Unsubscribe) -> None:
    session.cause(Send(home_of(letter.name, letter.key, session.partitions), letter))
