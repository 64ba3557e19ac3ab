"""A broker connection that misbehaves within its contract, by a seeded coin: rows D1–D4 of the fault matrix.

The same wrapper goes around a broker in memory in virtual time and around real connections in real processes. It must not know who uses
it, nor when its faults begin and end: it asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.codec import decode_task_frame, encode
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject


@dataclass(frozen=True)
class Rates:
    """Chance of each fault per call. `only`: the kinds of messages (see `kind_of`) that are hit; none named: all."""

    duplicate: float = 0.0
    forget: float = 0.0  # tasks are accepted, then lost (a Jepsen finding)
    delay: float = 0.0  # messages overtake one another
    deaf: float = 0.0  # control requests and signals are lost
    refuse: float = 0.0  # publishing fails, retryable
    mute: float = 0.0  # a message arrives, and its confirmation or answer is lost
    only: tuple[str, ...] = ()
    window_s: tuple[float, float] = (0.1, 4.0)  # how long a delay is


HEALED = Rates()
FAULTS = ("duplicate", "forget", "delay", "deaf", "refuse", "mute")


def until(rates: Rates, heals_s: float) -> Callable[[], Rates]:
    """`rates`, till the loop's clock shows `heals_s`."""
    return lambda: rates if asyncio.get_running_loop().time() <= heals_s else HEALED


def kind_of(data: bytes) -> str:
    """What a message is, by the tag that it begins with: results, submit, cancel, claim, heartbeat, hello, stop, …"""
    try:
        return str(msgspec.msgpack.decode(data)[0])
    except (msgspec.DecodeError, IndexError, TypeError, KeyError):
        return "untagged"


class FaultyBroker:
    """Everything else goes straight through to `inner`. `rates` is asked at each call; `note` hears of each fault and kind."""

    def __init__(self, inner: Broker, rates: Callable[[], Rates], random: Random, note: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._rates = rates
        self._random = random
        self._note = note
        self._under_way: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _hit(self, fault: str, kind: str) -> bool:
        rates = self._rates()
        meant = not rates.only or kind in rates.only
        hit = meant and self._random.random() < getattr(rates, fault)
        if hit:
            self._note(fault, kind)
        return hit

    async def _delayed(self, kind: str) -> None:
        window = self._rates().window_s
        if self._hit("delay", kind):
            await asyncio.sleep(self._random.uniform(*window))

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        if self._hit("refuse", "tasks"):
            raise BrokerUnavailable("refused by the test")
        await self._delayed("tasks")
        if self._hit("forget", "tasks"):  # it has a position like any other, and nothing is in it
            return await self._inner.publish_tasks(pool, _emptied(data), message_id)
        if self._hit("duplicate", "tasks"):
            await self._inner.publish_tasks(pool, data, message_id + "/again")
        return await self._confirmed("tasks", self._inner.publish_tasks(pool, data, message_id))

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        kind = kind_of(data)
        if self._hit("refuse", kind):
            raise BrokerUnavailable("refused by the test")
        await self._delayed(kind)
        if self._hit("duplicate", kind):
            await self._inner.post(partition, data, "")
        return await self._confirmed(kind, self._inner.post(partition, data, message_id))

    async def _confirmed(self, kind: str, call: Awaitable[Position]) -> Position:
        position = await call
        if self._hit("mute", kind):
            raise BrokerUnavailable("not confirmed, by the test")
        return position

    async def send(self, subject: Subject, data: bytes) -> None:
        kind = kind_of(data)
        if self._hit("deaf", kind):
            return
        if self._hit("duplicate", kind):
            await self._inner.send(subject, data)
        if self._hit("delay", kind):
            later = asyncio.get_running_loop().create_task(self._send_later(subject, data))
            self._under_way.add(later)
            later.add_done_callback(self._under_way.discard)
            return
        await self._inner.send(subject, data)

    async def _send_later(self, subject: Subject, data: bytes) -> None:
        await asyncio.sleep(self._random.uniform(*self._rates().window_s))
        try:
            await self._inner.send(subject, data)
        except StepmeshError:
            return  # nobody waits for it

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        kind = kind_of(data)
        if self._hit("deaf", kind):
            return await self._silence(timeout_s)
        await self._delayed(kind)
        if self._hit("duplicate", kind):
            await self._inner.request(subject, data, timeout_s)
        answer = await self._inner.request(subject, data, timeout_s)
        return await self._silence(timeout_s) if self._hit("mute", kind) else answer

    async def _silence(self, timeout_s: float) -> bytes:
        await asyncio.sleep(timeout_s)
        raise BrokerUnavailable("no answer, by the test")


def _emptied(data: bytes) -> bytes:
    return encode(msgspec.structs.replace(decode_task_frame(data), tasks=[]))
