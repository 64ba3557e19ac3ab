"""The dead-letter topic: one partition, one key per letter, and an empty record for each that was dropped.

Invariant: a letter is there until it is dropped, whatever the topic's age. It must not know what letters hold.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition

from stepmesh_broker.kafka.lookup import LookUp
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.records import Key, Outgoing, headers_of, text
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.ports import Parked
from stepmesh_broker.protocol.ids import Pool, Position

MAX_REASON = 1000
"""Characters of a reason that are kept."""


class DeadLetters:
    """A namespace's."""

    def __init__(self, topics: Topics, publisher: Publisher, lookup: LookUp) -> None:
        self._topics = topics
        self._publisher = publisher
        self._lookup = lookup
        self._place = TopicPartition(topics.dead, 0)

    async def park(self, pool: Pool, data: bytes, reason: str, source: bytes) -> Position:
        """Add one."""
        await self._topics.ensure(self._topics.dead)
        headers = headers_of(pool=pool, reason=reason[:MAX_REASON], **({"source": source} if source else {}))
        stored = await self._publisher.publish(Outgoing(self._topics.dead, 0, data, headers, secrets.token_bytes(12)))
        return Position(stored.offset + 1)

    async def parked(self, limit: int, after: Position) -> Sequence[Parked]:
        """Oldest first."""
        return [self._letter(record) for record in await self._letters() if record.offset >= after][:limit]

    async def drop(self, position: Position) -> bool:
        """Remove one."""
        for record in await self._letters():
            if record.offset + 1 == position:
                await self._publisher.publish(Outgoing(self._topics.dead, 0, None, headers_of(), record.key))
                return True
        return False

    async def _letters(self) -> list[Any]:
        if not await self._topics.partitions(self._topics.dead):
            return []
        letters: dict[bytes, Any] = {}
        for record in await self._lookup.everything(self._place):
            if record.value is None:
                letters.pop(record.key, None)
            else:
                letters[record.key] = record
        return list(letters.values())

    def _letter(self, record: Any) -> Parked:
        headers = dict(record.headers)
        pool, reason = Pool(text(headers, Key.POOL)), text(headers, Key.REASON)
        return Parked(Position(record.offset + 1), pool, record.value, reason, headers.get(Key.SOURCE, b""))
