"""Brokers and consumers that die, join and lose everything, under load: what the Kafka backend promises then."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest
from tests.integration.kafka.load import POOL, Load, P, connected, namespace
from tests.services.kafka import QUICK_FAILOVER, KafkaServers

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka import KafkaBroker
from stepmesh_broker.protocol.ids import Position
from stepmesh_broker.protocol.subjects import Subject

ECHO = Subject("echo")
CONSUMER = Path(__file__).parent / "consumer_process.py"


async def echo(data: bytes) -> bytes:
    return data


async def answered(broker: KafkaBroker, data: bytes) -> bytes:
    """Asks until somebody answers."""
    while True:
        try:
            return await broker.request(ECHO, data, 2.0)
        except BrokerUnavailable:
            await asyncio.sleep(0.1)


async def publish_or_not(broker: KafkaBroker, data: bytes) -> None:
    """Another frame each time; the broker may be away."""
    try:
        await broker.publish_tasks(POOL, data, uuid.uuid4().hex)
    except BrokerUnavailable:
        await asyncio.sleep(0.1)


async def die_holding(*arguments: str) -> None:
    """A consumer takes frames, and is killed."""
    url, name, *more = arguments
    consumer = await asyncio.create_subprocess_exec(sys.executable, str(CONSUMER), url, name, POOL, *more, stdout=asyncio.subprocess.PIPE)
    assert consumer.stdout is not None
    async with asyncio.timeout(60):
        while await consumer.stdout.readline() != b"holds\n":
            assert consumer.returncode is None
    os.kill(consumer.pid, signal.SIGKILL)
    await consumer.wait()


@pytest.mark.slow
async def test_one_of_three_brokers_dies_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    with KafkaServers(tmp_path, 3, QUICK_FAILOVER) as kafka:
        broker = await connected(kafka.url, namespace())
        load = Load(broker)
        await load.start()
        await load.sent_more(500)
        kafka.kill(0)
        await load.sent_more(500)
        await asyncio.to_thread(kafka.restart, 0)
        await load.sent_more(500)
        await load.finish()
        print(f"longest time without a frame: {load.longest_s:.2f} s")
        assert load.sent >= 1500
        assert load.positions == sorted(load.positions)
        await broker.close()


@pytest.mark.slow
async def test_the_only_broker_dies_and_comes_back_and_all_go_on(tmp_path: Path) -> None:
    with KafkaServers(tmp_path, settings=QUICK_FAILOVER) as kafka:
        broker = await connected(kafka.url, namespace(), publish_timeout_s=3.0)
        load = Load(broker)
        await load.start()
        await load.sent_more(300)
        life = await broker.incarnation()
        kafka.kill(0)
        await asyncio.to_thread(kafka.restart, 0)
        await load.sent_more(300)
        await load.finish()
        assert await broker.incarnation() == life
        assert load.positions == sorted(load.positions)
        await broker.close()


@pytest.mark.slow
async def test_a_group_that_came_together_without_its_topic_takes_tasks_when_it_is_there_again(tmp_path: Path) -> None:
    """The broker lost all its data, and for a while nobody has tasks for the pool."""
    with KafkaServers(tmp_path, settings=QUICK_FAILOVER) as kafka:
        name = namespace()
        worker = await connected(kafka.url, name)
        source = await worker.tasks(POOL)
        kafka.kill(0)
        kafka.wipe(0)
        await asyncio.to_thread(kafka.restart, 0)
        async with asyncio.timeout(60):
            while source._seat._mine or source._seat._taking is None or not source._seat._taking.done():
                await asyncio.sleep(0.05)
        publisher = await connected(kafka.url, name)
        await publisher.publish_tasks(POOL, b"new", "1")
        assert [delivery.data for delivery in await source.fetch(1, 30)] == [b"new"]
        await publisher.close()
        await worker.close()


@pytest.mark.slow
async def test_a_broker_that_lost_its_data_has_another_incarnation_and_inbox_positions_grow(tmp_path: Path) -> None:
    with KafkaServers(tmp_path, settings=QUICK_FAILOVER) as kafka:
        name = namespace()
        broker, other = await connected(kafka.url, name), await connected(kafka.url, name)
        await other.serve(ECHO, echo)
        assert await broker.request(ECHO, b"before", 10) == b"before"
        inbox, source = await broker.inbox(P, Position(0)), await broker.tasks(POOL)
        for number in range(3):
            await broker.post(P, b"old %d" % number)
        read = [entry for _ in range(3) for entry in await inbox.fetch(1, 10)]
        life = await broker.incarnation()
        kafka.kill(0)
        kafka.wipe(0)
        await asyncio.to_thread(kafka.restart, 0)

        async def is_reborn() -> bool:
            try:
                return await broker.incarnation() != life
            except BrokerUnavailable:
                return False

        async with asyncio.timeout(60):
            while not await is_reborn():
                await asyncio.sleep(0.1)
            position = await broker.post(P, b"new")
            entries = [entry for entry in await inbox.fetch(10, 30) if entry.data == b"new"]
            while not any(entry.position == position for entry in entries):
                entries += [entry for entry in await inbox.fetch(10, 30) if entry.data == b"new"]
            assert position > read[-1].position
            await broker.publish_tasks(POOL, b"again", "1")
            page = await source.fetch(1, 30)
            assert [delivery.data for delivery in page] == [b"again"]
            assert await answered(broker, b"after") == b"after"
        await other.close()
        await broker.close()


@pytest.mark.slow
async def test_what_a_consumer_committed_before_the_loss_of_all_data_hides_no_frame_of_the_new_life(tmp_path: Path) -> None:
    """It comes back to an empty group, and what it commits on the way is taken: the offsets of a log that is gone."""
    with KafkaServers(tmp_path, settings=QUICK_FAILOVER) as kafka:
        broker = await connected(kafka.url, namespace())
        source = await broker.tasks(POOL)
        for number in range(100):
            await broker.publish_tasks(POOL, b"old", f"old {number}")
        for _ in range(100):
            (delivery,) = await source.fetch(1, 10)
            await delivery.ack()
        kafka.kill(0)
        kafka.wipe(0)
        await asyncio.to_thread(kafka.restart, 0)
        async with asyncio.timeout(60):
            while (await source.fetch(1, 1.0) or [None])[0] is None:
                await publish_or_not(broker, b"first")
            wanted = {b"new %d" % number for number in range(24)}
            for data in wanted:
                await broker.publish_tasks(POOL, data, data.decode())
            while wanted:
                wanted -= {delivery.data for delivery in await source.fetch(8, 1.0)}
        await broker.close()


async def test_frames_of_a_consumer_that_died_come_again_and_say_so(kafka_url: str) -> None:
    name = namespace()
    broker = await connected(kafka_url, name, session_s=1.5)
    for number in range(8):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    await die_holding(kafka_url, name, "8")
    source = await broker.tasks(POOL)
    got: dict[bytes, int] = {}
    async with asyncio.timeout(60):
        while len(got) < 8:
            for delivery in await source.fetch(8, 1.0):
                got[delivery.data] = delivery.deliveries
                await delivery.ack()
    assert got == {b"%d" % number: 2 for number in range(8)}
    await broker.close()


async def test_long_frames_stay_with_their_consumer_while_others_join_and_leave(kafka_url: str) -> None:
    name, wait_s = namespace(), 1.0
    broker = await connected(kafka_url, name, ack_wait_s=wait_s)
    source = await broker.tasks(POOL)
    for number in range(10):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    held = [delivery for _ in range(10) for delivery in await source.fetch(1, 10)]
    others: list[bytes] = []

    async def join() -> None:
        other = await connected(kafka_url, name, ack_wait_s=wait_s)
        for _ in range(2):
            more = await other.tasks(POOL)
            others.extend(delivery.data for delivery in await more.fetch(10, wait_s))
            await more.close()
        await other.close()

    joining = [asyncio.create_task(join()) for _ in range(2)]
    until = asyncio.get_running_loop().time() + 4 * wait_s
    while asyncio.get_running_loop().time() < until or not all(task.done() for task in joining):
        for delivery in held:
            await delivery.in_progress()
        others.extend(delivery.data for delivery in await source.fetch(10, wait_s / 4))
    assert [len(held), others] == [10, []]
    for delivery in held:
        await delivery.ack()
    await asyncio.gather(*joining)

    async def is_empty() -> bool:
        return (await broker.depth(POOL))[:2] == (0, 0)

    async with asyncio.timeout(30):
        while not await is_empty():
            await asyncio.sleep(0.1)
    await broker.close()


async def test_an_instance_that_was_killed_has_its_place_again_before_the_others_notice(kafka_url: str) -> None:
    name = namespace()
    broker = await connected(kafka_url, name, instance="worker-1", session_s=60.0)
    for number in range(4):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    await die_holding(kafka_url, name, "4", "worker-1")
    source = await broker.tasks(POOL)
    got: set[bytes] = set()
    async with asyncio.timeout(30):  # half of the session that the dead one has
        while len(got) < 4:
            for delivery in await source.fetch(4, 1.0):
                got.add(delivery.data)
                await delivery.ack()
    assert got == {b"%d" % number for number in range(4)}
    await broker.close()


@pytest.mark.slow
async def test_a_connection_closes_while_the_cluster_is_away(tmp_path: Path) -> None:
    """A worker with work in hand that is told to stop must not wait for a broker to come back."""
    with KafkaServers(tmp_path, settings=QUICK_FAILOVER) as kafka:
        broker = await connected(kafka.url, namespace())
        await broker.publish_tasks(POOL, b"frame", "1")
        source, inbox = await broker.tasks(POOL), await broker.inbox(P, Position(0))
        await broker.post(P, b"message")
        assert len(await source.fetch(1, 20)) == 1
        (entry,) = await inbox.fetch(1, 20)
        await inbox.ack(entry.position)
        kafka.kill(0)
        async with asyncio.timeout(30):
            await broker.close()
