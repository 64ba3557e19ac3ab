"""Requests about the dead letters of a namespace, from the broker that keeps them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stepmesh_broker.ports import Broker, Parked
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.dead_letters import (
    MOST,
    SHOWN_BYTES,
    DeadLetter,
    DeadLetters,
    DropDeadLetter,
    ListDeadLetters,
    ResendDeadLetter,
    Resent,
    read_source,
)
from stepmesh_broker.protocol.ids import Position
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.records import PlainRecord, Topic

READ = 10_000
"""Letters that are looked through at most for those of one pool."""
_AROUND = 128
"""Bytes of a letter beside its data and its reason, at most."""


class DeadLetterRequests:
    """Their answers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            ListDeadLetters: self._list,
            DropDeadLetter: self._drop,
            ResendDeadLetter: self._resend,
        }

    async def _list(self, request: ListDeadLetters) -> api.ApiAnswer:
        limit = max(0, min(request.limit, MOST))
        if not limit:
            return DeadLetters([])
        found = await self._broker.parked(READ if request.pool else limit)
        letters = [one for one in found if request.pool in ("", one.pool)][:limit]
        shown = self._shown(letters)
        return DeadLetters([DeadLetter(one.position, one.pool, len(one.data), one.data[:shown], one.reason) for one in letters])

    def _shown(self, letters: Sequence[Parked]) -> int:
        """Bytes of each: fewer than usual where the answer would not fit a message."""
        room = self._broker.max_message_bytes - sum(_AROUND + len(one.reason.encode()) for one in letters)
        return max(0, min(SHOWN_BYTES, room // (len(letters) + 1)))

    async def _drop(self, request: DropDeadLetter) -> api.ApiAnswer:
        if await self._broker.drop_parked(request.position):
            return api.Deleted()
        return _unknown(request.position)

    async def _resend(self, request: ResendDeadLetter) -> api.ApiAnswer:
        """It is gone from here when its topic has it; after a crash in between it is in both, and sending it twice changes nothing."""
        found = await self._broker.parked(1, Position(request.position - 1)) if request.position > 0 else ()
        if not found or found[0].position != request.position:
            return _unknown(request.position)
        letter = found[0]
        topic, record = _topic_of(letter), _record_of(letter)
        if topic is None:
            return _no_record(letter)
        if record is None:
            return _not_whole(letter)
        await self._broker.write(topic, record)
        await self._broker.drop_parked(letter.position)
        return Resent(topic)


def _topic_of(letter: Parked) -> Topic | None:
    """None for what was no record of a topic."""
    return next((topic for topic in Topic if topic == str(letter.pool)), None)


def _record_of(letter: Parked) -> PlainRecord | None:
    """None when the letter does not say all of it."""
    if not letter.source:
        return None
    source = read_source(letter.source)
    return source.record(letter.data) if source.is_whole else None


def _unknown(position: Position) -> Refused:
    return Refused("SM-5024", f"there is no dead letter at position {position}", "list them: it may be gone already")


def _no_record(letter: Parked) -> Refused:
    what = f"dead letter {letter.position} is no record of a topic, but of {letter.pool}"
    return Refused("SM-5140", f"{what}: {letter.reason}", "`stepmesh retry RUN` goes on from a step that failed, in a new run")


def _not_whole(letter: Parked) -> Refused:
    what = f"dead letter {letter.position} does not hold all of its record"
    why = "it was too large, or nobody could decode it" if letter.source else "it was parked by an earlier release"
    return Refused("SM-5141", f"{what}: {why}", "let its producer write it again, then drop it here")
