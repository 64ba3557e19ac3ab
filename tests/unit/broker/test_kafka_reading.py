"""How records get from Kafka's client to who reads them, with a client that is scripted."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException

from stepmesh_broker.kafka import reader as reader_module
from stepmesh_broker.kafka.reader import LogReader, Records
from stepmesh_broker.kafka.settings import KafkaSettings

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Record(NamedTuple):
    topic: str
    offset: int


class Consumer:
    """Three records in each partition; what is assigned anew is read from where it is sought."""

    def __init__(self) -> None:
        self._at: dict[TopicPartition, int] = {}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._at = dict.fromkeys(partitions, 0)

    def unsubscribe(self) -> None:
        self._at = {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._at[partition] = offset

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)
        found = {place: [Record(place.topic, offset) for offset in range(at, 3)] for place, at in self._at.items()}
        self._at = dict.fromkeys(self._at, 3)
        return {place: records for place, records in found.items() if records}


async def test_who_leaves_while_records_are_handed_over_doubles_nobody_elses() -> None:
    """The inbox that reads the mark of its successor leaves, in the middle of what came for all."""
    reader = LogReader(KafkaSettings())
    reader._consumer = Consumer()
    heard: list[int] = []

    def leaves(_records: Records) -> None:
        reader.leave(A, leaves)

    def hears(records: Records) -> None:
        heard.extend(record.offset for record in records)

    reader.read(A, 0, leaves)
    reader.read(B, 0, hears)
    running = asyncio.create_task(reader._run())
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert heard == [0, 1, 2]


async def test_what_came_for_who_was_replaced_is_not_handed_to_the_next_one() -> None:
    reader = LogReader(KafkaSettings())
    reader._consumer = Consumer()
    heard: list[int] = []

    def hears(records: Records) -> None:
        heard.extend(record.offset for record in records)

    def replaces(_records: Records) -> None:
        reader.read(B, 1, hears)

    reader.read(A, 0, replaces)
    reader.read(B, 0, lambda _records: None)
    running = asyncio.create_task(reader._run())
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert heard == [1, 2]


class Poisoned(Consumer):
    """What B holds cannot be read; an answer that fails takes with it what was found of others."""

    async def getmany(self, *wanted: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        at = dict(self._at)
        found = await super().getmany(timeout_ms)
        if wanted:
            self._at.update({place: offset for place, offset in at.items() if place not in wanted})
        if B in (wanted or found):
            raise CorruptRecordException
        return {place: records for place, records in found.items() if place in (wanted or found)}


async def test_a_record_that_cannot_be_read_stops_its_own_partition_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("_RETRY_S", "_ALONE_S"):
        monkeypatch.setattr(reader_module, pause, 0.0)
    reader = LogReader(KafkaSettings())
    reader._consumer = Poisoned()
    heard: list[int] = []

    def hears(records: Records) -> None:
        heard.extend(record.offset for record in records)

    reader.read(A, 0, hears)
    reader.read(B, 0, hears)
    running = asyncio.create_task(reader._run())
    async with asyncio.timeout(10):
        while len(heard) < 3:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert heard == [0, 1, 2]
