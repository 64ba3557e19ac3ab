"""Which life of its data a namespace is in: the first record of a topic that is never trimmed.

Invariant: all connections see the same life, and another one after the cluster lost its data; lives follow each other in time, so that
positions that are counted from a life's birth grow over a loss. It must not know who asks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import TopicPartition

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka.lookup import LookUp
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.records import Outgoing, headers_of
from stepmesh_broker.kafka.topics import Topics

_FRESH_S = 0.5
"""What was read so lately is not asked again: every shard of a process asks once a second."""


class Life(NamedTuple):
    """`name`: of this life alone. `born`: when it began, µs of Unix time."""

    name: str
    born: int


class Lives:
    """The namespace's present life. `on_change` hears of each new one."""

    def __init__(self, topics: Topics, publisher: Publisher, lookup: LookUp, on_change: Callable[[Life], None]) -> None:
        self._topics = topics
        self._publisher = publisher
        self._lookup = lookup
        self._on_change = on_change
        self._known: Life | None = None
        self._asked = 0.0
        self._asking = asyncio.Lock()

    async def known(self) -> Life:
        """As it was read last, at some time."""
        return self._known or await self.present()

    async def present(self) -> Life:
        """As it is now, give or take half a second. Raises `BrokerUnavailable`."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._known is None or now - self._asked >= _FRESH_S:
                life = await self._read()
                self._asked = now
                changed, self._known = self._known not in (None, life), life
                if changed:
                    self._on_change(life)
            return self._known

    async def _read(self) -> Life:
        await self._topics.ensure(self._topics.births, again=True)
        place = TopicPartition(self._topics.births, 0)
        record = await self._lookup.first(place)
        if record is None:
            born = f"{time.time_ns() // 1000} {secrets.token_hex(6)}".encode()
            await self._publisher.publish(Outgoing(place.topic, place.partition, born, headers_of()))
            record = await self._lookup.first(place)
        if record is None:
            raise BrokerUnavailable(f"{place.topic} does not show its first record yet", hint="is Kafka up, and most of its brokers?")
        born_us, _, name = record.value.decode().partition(" ")
        return Life(name, int(born_us))
