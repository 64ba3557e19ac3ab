"""A broker connection over which every message takes a while, and one message of a kind is lost when the test says so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.ports import Broker, Delivery, TaskSource
from stepmesh_broker.protocol.codec import decode_control
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject


@dataclass
class Plan:
    """Which messages are lost: those of `kind`, from the `first` one on after `armed`, `count` of them. `seen`: by kind, since then."""

    kind: str = ""
    first: int = 0
    count: int = 1
    armed: bool = False
    seen: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0

    def loses(self, kind: str) -> bool:
        """Whether this one is lost."""
        if not self.armed:
            return False
        number, self.seen[kind] = self.seen[kind], self.seen[kind] + 1
        hit = kind == self.kind and self.first <= number < self.first + self.count
        self.lost += hit
        return hit


class LosingBroker:
    """Everything else goes straight through to `inner`."""

    def __init__(self, inner: Broker, plan: Plan, seed: int) -> None:
        self._inner = inner
        self._plan = plan
        self._random = Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(0.0005, 0.010))

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        await self._travel()
        position = await self._inner.publish_tasks(Pool("lost") if self._plan.loses("frame") else pool, data, message_id)
        await self._travel()
        return position

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        await self._travel()
        position = await self._inner.post(partition, data, message_id)
        await self._travel()
        return position

    async def send(self, subject: Subject, data: bytes) -> None:
        await self._travel()
        if not self._plan.loses(f"send {subject.split('.')[2]}"):
            await self._inner.send(subject, data)

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        kind = subject.split(".")[2]
        if kind == "control":
            kind = type(decode_control(data)).__name__
        until = asyncio.get_running_loop().time() + timeout_s
        await self._travel()
        if self._plan.loses(f"question {kind}"):
            await asyncio.sleep(until - asyncio.get_running_loop().time())
            raise BrokerUnavailable("lost, by the test")
        answer = await self._inner.request(subject, data, until - asyncio.get_running_loop().time())
        await self._travel()
        if self._plan.loses(f"answer {kind}"):
            await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))
            raise BrokerUnavailable("lost, by the test")
        return answer

    async def tasks(self, pool: Pool) -> TaskSource:
        return _Source(await self._inner.tasks(pool), self._plan)


class _Source:
    def __init__(self, inner: TaskSource, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    async def fetch(self, max_frames: int, timeout_s: float) -> Sequence[Delivery]:
        found = [_Delivery(one, self._plan) for one in await self._inner.fetch(max_frames, timeout_s)]
        return [one for one in found if not self._plan.loses("delivery")]

    async def close(self) -> None:
        await self._inner.close()


class _Delivery:
    def __init__(self, inner: Delivery, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def ack(self) -> None:
        if not self._plan.loses("ack"):
            await self._inner.ack()
