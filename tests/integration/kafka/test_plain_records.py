"""Records that somebody else's producer writes, as it is set up where it runs."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import aiokafka.codec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from tests.integration.kafka.load import P, connected, namespace

from stepmesh_broker.kafka import KafkaSettings, undecodable
from stepmesh_broker.ports import TopicReader
from stepmesh_broker.protocol.ids import Partition, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic

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


async def write_batch(url: str, topic: str, values: list[bytes], codec: str | None, partition: int = 0) -> None:
    """All in one batch."""
    producer = AIOKafkaProducer(bootstrap_servers=list(KafkaSettings.parse(url).bootstrap), compression_type=codec)
    await producer.start()
    try:
        batch = producer.create_batch()
        for value in values:
            assert batch.append(key=None, value=value, timestamp=None) is not None
        await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()


async def read(reader: TopicReader, known: int) -> list[PlainRecord]:
    """Until so many records came, and were acknowledged."""
    found: list[PlainRecord] = []
    async with asyncio.timeout(60):
        while len(found) < known:
            records = await reader.fetch(2, 1)
            await reader.ack(records)
            found += records
    return found


async def test_a_batch_that_cannot_be_decoded_is_gone_past_alone_and_told(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it, behind it, and between two of them, every record is read; also where such a batch is the last one."""
    monkeypatch.setattr(undecodable, "AGAIN_S", 0.01)
    broker = await connected(kafka_url, namespace())
    name = broker._connection.topics.plain[Topic.SUBMIT]
    try:
        reader = await broker.records(Topic.SUBMIT, Partition(0), 1)
        for values, codec in (([b"0", b"1", b"2"], None), ([b"x"] * 4, "lz4"), ([b"7"], "gzip"), ([b"x"] * 2, "lz4")):
            await write_batch(kafka_url, name, values, codec)
        monkeypatch.setattr(aiokafka.codec, "has_lz4", lambda: False)
        found = await read(reader, 6)
        assert [record.value for record in found if record.problem is None] == [b"0", b"1", b"2", b"7"]
        assert [record.position for record in found] == [0, 1, 2, 6, 7, 9]
        told = [record.problem for record in found if record.problem is not None]
        assert [problem.code for problem in told] == ["SM-5142", "SM-5142"]
        assert f"{name}, partition 0, offset 3 to 6:" in told[0].message
        assert f"{name}, partition 0, offset 8 to 9:" in told[1].message
        assert len([one for one in caplog.records if "SM-5142" in one.getMessage()]) == 2, "once for each"
        await reader.close()
        again = await broker.records(Topic.SUBMIT, Partition(0), 1)
        await write_batch(kafka_url, name, [b"after"], None)
        assert [record.value for record in await read(again, 1)] == [b"after"], "it is not told twice"
    finally:
        await broker.close()


async def test_a_batch_that_cannot_be_decoded_takes_nothing_from_other_partitions_of_its_topic(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await connected(kafka_url, namespace())
    name = broker._connection.topics.plain[Topic.EVENTS]
    try:
        await broker._connection.topics.ensure(name, partitions=3)
        await write_batch(kafka_url, name, [b"x"] * 3, "lz4", partition=1)
        for number in range(40):
            await write_batch(kafka_url, name, [b"%d" % number], None, partition=number % 3)
        monkeypatch.setattr(aiokafka.codec, "has_lz4", lambda: False)
        monkeypatch.setattr(undecodable, "AGAIN_S", 0.01)
        found = await read(await broker.records(Topic.EVENTS, Partition(0), 1), 41)
        for lane in range(3):
            values = [int(record.value) for record in found if record.lane == lane and record.problem is None]
            assert values == list(range(lane, 40, 3))
        assert [(record.lane, record.position) for record in found if record.problem is not None] == [(1, 2)]
    finally:
        await broker.close()


async def test_a_damaged_batch_is_gone_past_likewise(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = await connected(kafka_url, namespace())
    name = broker._connection.topics.plain[Topic.SUBMIT]
    whole = fetcher.MemoryRecords

    def damaged(fetched: bytes) -> Any:
        """The last byte of the batch that begins at offset 2 is another one."""
        data, at = bytearray(fetched), 0
        while at + 12 <= len(data):
            offset, length = struct.unpack_from(">qi", data, at)
            at += 12 + length
            if offset == 2 and at <= len(data):
                data[at - 1] ^= 0xFF
        return whole(bytes(data))

    monkeypatch.setattr(fetcher, "MemoryRecords", damaged)
    monkeypatch.setattr(undecodable, "AGAIN_S", 0.01)
    try:
        reader = await broker.records(Topic.SUBMIT, Partition(0), 1)
        for values in ([b"0", b"1"], [b"x"] * 3, [b"5"]):
            await write_batch(kafka_url, name, values, None)
        found = await read(reader, 4)
        assert [(record.position, record.value) for record in found] == [(0, b"0"), (1, b"1"), (4, b""), (5, b"5")]
        (told,) = [record.problem for record in found if record.problem is not None]
        assert "offset 2 to 4: the batch cannot be decoded: " in told.message
        assert "CRC" in told.message
    finally:
        await broker.close()


async def test_a_batch_that_can_be_decoded_in_the_end_is_read(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = await connected(kafka_url, namespace())
    name = broker._connection.topics.plain[Topic.SUBMIT]
    tried: list[None] = []

    def installed() -> bool:
        tried.append(None)
        return len(tried) >= undecodable.TRIES

    try:
        reader = await broker.records(Topic.SUBMIT, Partition(0), 1)
        await write_batch(kafka_url, name, [b"0", b"1"], "lz4")
        monkeypatch.setattr(aiokafka.codec, "has_lz4", installed)
        monkeypatch.setattr(undecodable, "AGAIN_S", 0.01)
        assert [(record.value, record.problem) for record in await read(reader, 2)] == [(b"0", None), (b"1", None)]
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
