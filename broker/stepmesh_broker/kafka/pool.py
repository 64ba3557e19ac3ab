"""Frames on their way into a pool, and how much waits there, from what its consumers committed.

Invariant: copies of one message id lie in one partition, where the reader sees both; a floor is never too high, and may be too low. What
was committed in another life of the data counts for nothing: a consumer that outlived it may commit that at any time, and whoever began
there would skip the frames of this life. It must not know what frames hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2s
from typing import NamedTuple

from aiokafka import TopicPartition

from stepmesh_broker.kafka.ledger import Mark
from stepmesh_broker.kafka.life import Lives
from stepmesh_broker.kafka.lookup import LookUp
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.records import Outgoing, headers_of
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.ports import PoolDepth
from stepmesh_broker.protocol.ids import Pool, Position

_EMPTY = PoolDepth(0, 0, Position(0))


class Standing(NamedTuple):
    """Of a pool: the present life of the data, and what was committed in it by partition: offset and mark."""

    life: str
    committed: Mapping[int, tuple[int, Mark | None]]


class Pools:
    """The pools of a namespace as one connection sees them from outside."""

    def __init__(self, topics: Topics, publisher: Publisher, lookup: LookUp, lives: Lives) -> None:
        self._topics = topics
        self._publisher = publisher
        self._lookup = lookup
        self._lives = lives

    async def publish(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Returns the position of the frame, or of the first with the same id."""
        topic = self._topics.tasks(pool)
        count = await self._topics.ensure(topic)
        partition = int.from_bytes(blake2s(message_id.encode(), digest_size=4).digest(), "big") % count
        record = Outgoing(topic, partition, data, headers_of(message_id=message_id))
        return (await self._publisher.publish(record, message_id)).position

    async def standing(self, topic: str) -> Standing:
        """Of the pool with this topic. Raises `BrokerUnavailable`."""
        life = (await self._lives.present()).name
        found: dict[int, tuple[int, Mark | None]] = {}
        for partition, (offset, metadata) in (await self._topics.committed(topic)).items():
            mark = Mark.parse(metadata or "")
            if mark is None or mark.life == life:
                found[partition] = max(0, offset), mark
        return Standing(life, found)

    async def depth(self, pool: Pool) -> PoolDepth:
        """Offsets first: what is appended meanwhile is not counted as done."""
        topic = self._topics.tasks(pool)
        count = await self._topics.partitions(topic)
        if not count:
            return _EMPTY
        (_, committed), ends = await asyncio.gather(
            self.standing(topic), self._lookup.ends([TopicPartition(topic, number) for number in range(count)])
        )
        ready = in_flight = 0
        floors: list[Position] = []
        for place, end in ends.items():
            offset, mark = committed.get(place.partition, (0, None))
            if mark is None:
                ready += end - offset
                floors += [Position(0)] if end else []
            else:
                ready += max(0, end - offset - mark.settled_count - mark.open)
                in_flight += mark.in_hand
                floors.append(mark.floor)
        return PoolDepth(ready, in_flight, min(floors, default=Position(0)))
