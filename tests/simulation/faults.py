"""A broker connection that misbehaves within its contract, by a seeded coin: rows D1–D4 of the fault matrix."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject


@dataclass(frozen=True)
class Rates:
    """Chance of each fault per call. `until_s`: loop time at which the broker heals."""

    duplicate: float = 0.0
    forget: float = 0.0  # tasks are accepted, then lost (a Jepsen finding)
    delay: float = 0.0  # results overtake one another
    deaf: float = 0.0  # control requests and signals are lost
    refuse: float = 0.0  # publishing fails, retryable
    until_s: float = 60.0


class FaultyBroker:
    """Everything else goes straight through to `inner`."""

    def __init__(self, inner: Broker, rates: Rates, random: Random, seen: dict[str, int]) -> None:
        self._inner = inner
        self._rates = rates
        self._random = random
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _hit(self, fault: str) -> bool:
        healed = asyncio.get_running_loop().time() > self._rates.until_s
        hit = not healed and self._random.random() < getattr(self._rates, fault)
        if hit:
            self._seen[fault] = self._seen.get(fault, 0) + 1
        return hit

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        if self._hit("refuse"):
            raise BrokerUnavailable("refused by the test")
        if self._hit("forget"):
            return Position(1)
        if self._hit("duplicate"):
            await self._inner.publish_tasks(pool, data, message_id + "/again")
        return await self._inner.publish_tasks(pool, data, message_id)

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        if self._hit("refuse"):
            raise BrokerUnavailable("refused by the test")
        if self._hit("delay"):
            await asyncio.sleep(self._random.uniform(0.1, 4.0))
        if self._hit("duplicate"):
            await self._inner.post(partition, data, "")
        return await self._inner.post(partition, data, message_id)

    async def send(self, subject: Subject, data: bytes) -> None:
        if not self._hit("deaf"):
            await self._inner.send(subject, data)

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        if self._hit("deaf"):
            await asyncio.sleep(timeout_s)
            raise BrokerUnavailable("no answer, by the test")
        return await self._inner.request(subject, data, timeout_s)
