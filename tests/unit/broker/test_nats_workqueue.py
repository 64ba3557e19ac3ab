"""A work queue of another system's workers, on a real nats-server: what they see of it, and what we see of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy, RetentionPolicy

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MessageTooLarge
from stepmesh_broker.nats import EmbeddedNats, WorkQueue


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(nats_url, f"S{uuid.uuid4().hex[:12]}")
    await queue.open()
    yield queue
    await queue.close()


async def test_a_worker_takes_what_was_put_and_then_it_is_gone(queue: WorkQueue, nats_url: str) -> None:
    first, second = await queue.put(b"one"), await queue.put(b"two")
    assert await queue.first() == first
    worker = await nats.connect(nats_url)
    try:
        jetstream = worker.jetstream()
        info = await jetstream.stream_info(queue.name)
        assert info.config.retention == RetentionPolicy.WORK_QUEUE
        subscription = await jetstream.pull_subscribe(
            f"{queue.name}.tasks", durable="workers", config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        )
        [message] = await subscription.fetch(1, timeout=5)
        assert message.data == b"one"
        await message.ack_sync()
        assert await queue.first() == second
    finally:
        await worker.close()


async def test_what_nobody_took_can_be_taken_back_once(queue: WorkQueue) -> None:
    position = await queue.put(b"one")
    assert await queue.remove(position) is True
    assert await queue.remove(position) is False
    assert await queue.first() > position


async def test_several_of_us_share_one_stream(queue: WorkQueue, nats_url: str) -> None:
    others = [WorkQueue(nats_url, queue.name) for _ in range(3)]
    await asyncio.gather(*(other.open() for other in others))
    positions = {await other.put(b"x") for other in others}
    assert len(positions) == 3
    for other in others:
        await other.close()
        await other.close()


async def test_a_message_above_the_limit_of_the_server_is_refused(queue: WorkQueue) -> None:
    with pytest.raises(MessageTooLarge, match="bytes"):
        await queue.put(bytes(queue.max_message_bytes + 1))


async def test_a_stream_of_another_kind_is_named(nats_url: str) -> None:
    name = f"S{uuid.uuid4().hex[:12]}"
    connection = await nats.connect(nats_url)
    await connection.jetstream().add_stream(name=name, subjects=[f"{name}.tasks"])
    await connection.close()
    with pytest.raises(BrokerError, match=f"the stream {name} is no work queue") as caught:
        await WorkQueue(nats_url, name).open()
    assert caught.value.code == "SM-3015"


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "*"])
def test_a_name_that_no_stream_can_have_is_refused(name: str) -> None:
    with pytest.raises(BrokerError, match="is not the name of a stream"):
        WorkQueue("nats://127.0.0.1:1", name)


async def test_a_server_that_is_away_is_said() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BrokerUnavailable):
            await WorkQueue(f"nats://127.0.0.1:{taken.getsockname()[1]}", "S").open()


async def test_it_goes_on_after_the_server_was_away(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        queue = WorkQueue(server.url, "S")
        await queue.open()
        kept = await queue.put(b"one")
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while await first(queue) != kept:
                await asyncio.sleep(0.05)
        assert await queue.put(b"two") > kept
        await queue.close()


async def first(queue: WorkQueue) -> int:
    try:
        return await queue.first()
    except BrokerUnavailable:
        return 0


async def test_what_lies_there_can_be_cleared(queue: WorkQueue) -> None:
    position = [await queue.put(b"x") for _ in range(3)][-1]
    await queue.clear()
    assert await queue.first() == position + 1
    assert await queue.put(b"y") == position + 1
