"""Requests about the dead letters of a namespace, from the broker that keeps them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stepmesh_broker.ports import Broker, Parked
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.dead_letters import MOST, SHOWN_BYTES, DeadLetter, DeadLetters, DropDeadLetter, ListDeadLetters
from stepmesh_broker.protocol.messages import Refused

READ = 10_000
"""Letters that are looked through at most for those of one pool."""
_AROUND = 128
"""Bytes of a letter beside its data and its reason, at most."""


class DeadLetterRequests:
    """Their answers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {ListDeadLetters: self._list, DropDeadLetter: self._drop}

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
        return Refused("SM-5024", f"there is no dead letter at position {request.position}", "list them: it may be gone already")
