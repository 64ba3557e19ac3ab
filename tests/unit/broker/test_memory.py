"""What only the memory broker has: virtual time, a bus to share, a store to lose."""

from __future__ import annotations

import asyncio

import pytest

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory import LoopClock, MemoryBroker, MemoryBus, VirtualClock
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.subjects import Subject

NS = Namespace("default")
POOL = Pool("cpu")
P = Partition(0)


async def opened(bus: MemoryBus) -> MemoryBroker:
    broker = MemoryBroker(bus, NS)
    await broker.connect()
    return broker


async def test_virtual_time_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock()
    called: list[tuple[str, float]] = []
    clock.call_later(2.0, lambda: called.append(("second", clock.monotonic())))
    clock.call_later(1.0, lambda: called.append(("first", clock.monotonic())))
    clock.call_later(2.0, lambda: called.append(("third", clock.monotonic())))
    clock.call_later(1.5, lambda: called.append(("never", clock.monotonic()))).cancel()
    await clock.advance(1.999)
    assert called == [("first", 1.0)]
    await clock.advance(0.001)
    assert called == [("first", 1.0), ("second", 2.0), ("third", 2.0)]
    assert clock.monotonic() == 2.0


async def test_the_ack_wait_ends_at_its_very_moment() -> None:
    clock = VirtualClock()
    broker = await opened(MemoryBus(clock=clock, ack_wait_s=6.0))
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (held,) = await source.fetch(1, 1)
    waiting = asyncio.ensure_future(source.fetch(1, 100))
    await clock.advance(5.999)
    await held.in_progress()
    await clock.advance(5.999)
    assert not waiting.done()
    await clock.advance(0.001)
    assert [delivery.deliveries for delivery in await waiting] == [2]
    await broker.close()


async def test_a_late_sign_of_life_does_not_take_the_frame_back() -> None:
    clock = VirtualClock()
    broker = await opened(MemoryBus(clock=clock, ack_wait_s=6.0))
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (late,) = await source.fetch(1, 1)
    await clock.advance(6.0)
    (holder,) = await source.fetch(1, 1)
    await late.in_progress()
    await late.nak()
    assert await broker.depth(POOL) == (0, 1, 0)
    await late.ack()
    await holder.nak()
    assert await broker.depth(POOL) == (0, 0, 1)
    await broker.close()


async def test_the_loops_own_clock_redelivers_too() -> None:
    broker = await opened(MemoryBus(clock=LoopClock(), ack_wait_s=0.01))
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    await source.fetch(1, 10)
    async with asyncio.timeout(10):
        (again,) = await source.fetch(1, 10)
    assert again.deliveries == 2
    await again.ack()
    await broker.close()


async def test_a_wiped_bus_is_a_new_life() -> None:
    bus = MemoryBus(clock=VirtualClock())
    broker = await opened(bus)
    source, inbox = await broker.tasks(POOL), await broker.inbox(P, Position(0))
    life = await broker.incarnation()
    await broker.publish_tasks(POOL, b"lost", "1")
    (held,) = await source.fetch(1, 1)
    read = await broker.post(P, b"lost", "1")
    await broker.park(POOL, b"lost", "r")
    bus.wipe()
    assert await broker.incarnation() != life
    assert await broker.publish_tasks(POOL, b"new", "1") == 1
    await held.ack()
    assert [delivery.data for delivery in await source.fetch(9, 1)] == [b"new"]
    assert await broker.post(P, b"new", "1") > read
    assert [entry.data for entry in await inbox.fetch(9, 1)] == [b"lost", b"new"]  # the first was read before the wipe
    assert list(await broker.parked()) == []
    await broker.close()


async def test_a_closed_connection_is_out_of_the_conversation() -> None:
    bus = MemoryBus(clock=VirtualClock())
    gone, broker = await opened(bus), await opened(bus)
    heard: list[bytes] = []

    async def hear(data: bytes) -> None:
        heard.append(data)

    async def echo(data: bytes) -> bytes:
        return data

    await gone.listen(Subject("feed.a"), hear)
    await gone.serve(Subject("api.a"), echo)
    assert await broker.request(Subject("api.a"), b"x", 1) == b"x"
    await gone.close()
    await broker.send(Subject("feed.a"), b"x")
    with pytest.raises(BrokerUnavailable):
        await broker.request(Subject("api.a"), b"x", 1)
    assert heard == []
    await broker.close()
