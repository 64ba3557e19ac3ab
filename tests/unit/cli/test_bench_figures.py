"""A scenario beside its broker's own rate: what is exchanged, what is said, and that counting changes nothing."""

from __future__ import annotations

import pytest

from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_cli.bench.raw.exchange import Exchange
from stepmesh_cli.bench.raw.figures import MOST, compared, exchanges
from stepmesh_cli.bench.traffic import CountedBroker, Traffic

CARRIED = Traffic(frames=100, frame_bytes=640_000, results=20, result_bytes=320_000)


def test_one_exchange_has_a_message_per_step_and_one_the_frames_that_were_there() -> None:
    one_each, framed = exchanges(6_400, CARRIED, 2_000)
    assert one_each == Exchange(out=6_400, out_bytes=100, back=6_400, back_bytes=50, window=2_000)
    assert framed == Exchange(out=100, out_bytes=6_400, back=20, back_bytes=16_000, window=31)


@pytest.mark.parametrize(("steps", "messages"), [(MOST - 1, MOST - 1), (MOST + 1, MOST)])
def test_messages_of_one_step_are_as_many_as_the_steps_up_to_a_limit(steps: int, messages: int) -> None:
    one_each, _ = exchanges(steps, CARRIED, 2_000)
    assert one_each.out == one_each.back == messages


def test_ratios_are_steps_by_what_the_broker_would_carry() -> None:
    one_each, framed = exchanges(6_400, CARRIED, 2_000)
    said = compared(6_400, 0.5, CARRIED, (one_each, 0.25), (framed, 0.1))
    assert said["raw_round_trips_per_s"] == 25_600
    assert said["ratio"] == 0.5
    assert said["raw_framed_steps_per_s"] == 64_000
    assert said["framed_ratio"] == 0.2
    assert said["traffic"] == {"task frames": 100, "bytes each": 6_400, "result messages": 20, "bytes of each": 16_000}


async def test_what_is_counted_goes_through_unchanged() -> None:
    traffic = Traffic()
    broker = CountedBroker(MemoryBroker(MemoryBus(), Namespace("default")), traffic)
    await broker.connect()
    inbox = await broker.inbox(Partition(0), Position(0))
    await broker.publish_tasks(Pool("p"), b"frame", "1")
    source = await broker.tasks(Pool("p"))
    assert [one.data for one in await source.fetch(8, 1)] == [b"frame"]
    before = Traffic(frames=traffic.frames, frame_bytes=traffic.frame_bytes)
    await broker.post(Partition(0), b"one", "2")
    await broker.post(Partition(0), b"three", "3")
    page = await inbox.fetch(8, 1)
    assert [entry.data for entry in page] == [b"one", b"three"]
    await inbox.ack(page[-1].position)
    await broker.close()
    assert traffic == Traffic(frames=1, frame_bytes=5, results=2, result_bytes=8)
    assert traffic.since(before) == Traffic(frames=0, frame_bytes=0, results=2, result_bytes=8)
