"""A world per test and backend: connections to one fresh namespace, and a way to let time pass."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

import pytest
from tests.services.producers import kafka_records, nats_records

from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.memory import MemoryBroker, MemoryBus, VirtualClock
from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.records import Topic

_T = TypeVar("_T")
Produce = Callable[[Namespace, Topic, bytes, str, Mapping[str, str]], Awaitable[None]]
ACK_WAIT_S = 0.4
DEDUPE_WINDOW_S = 2.0
LIMIT_BYTES = 4096


class World:
    """One broker of one kind. Virtual time where the backend has a clock to give away, else real time."""

    def __init__(self, make: Callable[[Namespace], Broker], clock: VirtualClock | None, produce: Produce) -> None:
        self._make = make
        self._clock = clock
        self._produce = produce
        self._open: list[Broker] = []
        self.namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")

    async def connect(self, namespace: Namespace | None = None) -> Broker:
        """Another connection."""
        broker = self._make(namespace or self.namespace)
        await broker.connect()
        self._open.append(broker)
        return broker

    def unconnected(self) -> Broker:
        """A broker before `connect`."""
        return self._make(self.namespace)

    async def write(self, topic: Topic, value: bytes, key: str = "", headers: Mapping[str, str] | None = None) -> None:
        """A plain record on a topic, by a client that knows nothing of Stepmesh."""
        await self._produce(self.namespace, topic, value, key, headers or {})

    async def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        if self._clock is None:
            await asyncio.sleep(seconds)
        else:
            await self._clock.advance(seconds)

    async def run(self, call: Awaitable[_T], seconds: float = 5.0) -> _T:
        """The result of a call that may need up to `seconds` to pass."""
        task = asyncio.ensure_future(call)
        async with asyncio.timeout(20):
            if self._clock is not None:
                await self._clock.advance(0)
                if not task.done():
                    await self._clock.advance(seconds)
            return await task

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something that becomes true by itself."""
        async with asyncio.timeout(20):
            while not await holds():
                await self.pass_time(0.01)

    async def close(self) -> None:
        """Close every connection."""
        for broker in self._open:
            await broker.close()


@pytest.fixture(params=["memory", "nats", "nats-cluster", "kafka", "kafka-cluster"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Every test of the contract runs on each backend."""
    kind = request.param
    if kind == "memory":
        made = _memory()
    else:
        url = request.getfixturevalue(f"{kind.replace('-', '_')}_url")
        made = _nats(url) if kind.startswith("nats") else _kafka(url)
    yield made
    await made.close()


@pytest.fixture
async def broker(world: World) -> Broker:
    """A first connection."""
    return await world.connect()


def _memory() -> World:
    clock = VirtualClock()
    bus = MemoryBus(clock=clock, ack_wait_s=ACK_WAIT_S, dedupe_window_s=DEDUPE_WINDOW_S, max_message_bytes=LIMIT_BYTES)

    async def produce(namespace: Namespace, topic: Topic, value: bytes, key: str, headers: Mapping[str, str]) -> None:
        bus.streams(namespace).write(topic, value, key, {name.lower(): text for name, text in headers.items()})

    return World(lambda namespace: MemoryBroker(bus, namespace), clock, produce)


def _nats(url: str) -> World:
    def make(namespace: Namespace) -> NatsBroker:
        return NatsBroker(
            NatsSettings.parse(url, namespace, ack_wait_s=ACK_WAIT_S, dedupe_window_s=DEDUPE_WINDOW_S, max_message_bytes=LIMIT_BYTES)
        )

    async def produce(namespace: Namespace, topic: Topic, value: bytes, key: str, headers: Mapping[str, str]) -> None:
        await nats_records(url, namespace, [(value, key, headers)], topic)

    return World(make, None, produce)


def _kafka(url: str) -> World:
    def make(namespace: Namespace) -> KafkaBroker:
        return KafkaBroker(
            KafkaSettings.parse(
                url,
                namespace,
                ack_wait_s=ACK_WAIT_S,
                dedupe_window_s=DEDUPE_WINDOW_S,
                max_message_bytes=LIMIT_BYTES,
                pool_partitions=3,
                inbox_partitions=4,
                talk_partitions=4,
            )
        )

    async def produce(namespace: Namespace, topic: Topic, value: bytes, key: str, headers: Mapping[str, str]) -> None:
        await kafka_records(url, namespace, [(value, key, headers)], topic)

    return World(make, None, produce)
