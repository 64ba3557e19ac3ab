"""Records that somebody else's producer writes, as it is set up where it runs."""

from __future__ import annotations

import asyncio

import aiokafka.codec
import pytest
from aiokafka import AIOKafkaProducer
from tests.integration.kafka.load import P, connected, namespace

from stepmesh_broker.kafka import KafkaSettings
from stepmesh_broker.protocol.ids import Partition, Position
from stepmesh_broker.protocol.records import Topic

OTHER = Partition(0)


async def write(url: str, topic: str, data: bytes, codec: str | None) -> None:
    """As another program does."""
    producer = AIOKafkaProducer(bootstrap_servers=list(KafkaSettings.parse(url).bootstrap), compression_type=codec)
    await producer.start()
    try:
        await producer.send_and_wait(topic, data, partition=P)
    finally:
        await producer.stop()


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_a_record_is_read_however_its_producer_compresses(kafka_url: str, codec: str | None) -> None:
    broker = await connected(kafka_url, namespace())
    try:
        inbox = await broker.inbox(P, Position(0))
        await write(kafka_url, broker._connection.topics.inbox, b"plain " * 100, codec)
        assert [entry.data for entry in await inbox.fetch(1, 20)] == [b"plain " * 100]
    finally:
        await broker.close()


async def test_a_record_that_cannot_be_read_takes_nothing_from_other_partitions(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = await connected(kafka_url, namespace())
    try:
        await broker.post(P, b"first")
        await write(kafka_url, broker._connection.topics.inbox, b"unreadable " * 100, "lz4")
        monkeypatch.setattr(aiokafka.codec, "has_lz4", lambda: False)
        await broker.inbox(P, Position(0))
        inbox = await broker.inbox(OTHER, Position(0))
        found: list[bytes] = []
        for number in range(30):
            await broker.post(OTHER, b"%d" % number)
            found += [entry.data for entry in await inbox.fetch(10, 0.02)]
        async with asyncio.timeout(30):
            while len(found) < 30:
                found += [entry.data for entry in await inbox.fetch(10, 1)]
        assert found == [b"%d" % number for number in range(30)]
    finally:
        await broker.close()


class TakenBack(Exception):
    """What a program's transaction ended with."""


async def in_transactions(url: str, topic: str, *said: tuple[bytes, bool]) -> None:
    """As a program does that writes its records with something else, or not at all: each in a transaction, which is committed or not."""
    producer = AIOKafkaProducer(bootstrap_servers=list(KafkaSettings.parse(url).bootstrap), transactional_id=topic)
    await producer.start()
    try:
        for data, committed in said:
            try:
                async with producer.transaction():
                    await producer.send_and_wait(topic, data, partition=P)
                    if not committed:
                        raise TakenBack
            except TakenBack:
                pass
    finally:
        await producer.stop()


async def test_a_record_whose_transaction_was_aborted_is_none(kafka_url: str) -> None:
    broker = await connected(kafka_url, namespace())
    try:
        reader = await broker.records(Topic.EVENTS, P, P + 1)
        await in_transactions(kafka_url, broker._connection.topics.plain[Topic.EVENTS], (b"taken back", False), (b"meant", True))
        found: list[bytes] = []
        async with asyncio.timeout(30):
            while b"meant" not in found:
                found += [record.value for record in await reader.fetch(10, 1)]
        assert found == [b"meant"]
    finally:
        await broker.close()
