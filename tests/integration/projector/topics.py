"""A journal's topic with frames in it, as orchestrators leave it: owners, frames, and what a stale owner wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import genesis, seal
from stepmesh_orchestrator.journal.log_records import Record, encode, frame_records, owner_record
from stepmesh_orchestrator.journal.rules import Head
from stepmesh_orchestrator.ports import Frame

HANDOVER = 17
"""Frames after which another owner takes over; the first one writes once more, which does not count."""
PART_BYTES = 300


async def create(kafka_url: str, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


def records_of(frames: Iterable[Frame], partition: Partition) -> Iterator[Record]:
    """Frames in parts, under two owners."""
    head, writer = Head(1, 0, genesis("journal", partition), 0, b""), 11
    yield owner_record(head, writer, "first")
    for frame in frames:
        stored = seal(partition, frame.sequence, head.epoch, frame.payload, head.chain)
        if frame.sequence == HANDOVER:
            stale = seal(partition, frame.sequence, head.epoch, b"what nobody counts", head.chain)
            head, late, writer = head._replace(epoch=2), head, 22
            yield owner_record(head, writer, "second")
            yield from frame_records(stale, late, 11, PART_BYTES)
            stored = seal(partition, frame.sequence, head.epoch, frame.payload, head.chain)
        yield from frame_records(stored, head, writer, PART_BYTES)
        head = head._replace(sequence=stored.sequence, chain=stored.chain)


async def fill(kafka_url: str, topic: str, partition: Partition, records: Iterable[Record]) -> int:
    """Returns how many."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_url.removeprefix("kafka://"), linger_ms=5)
    await producer.start()
    count = 0
    try:
        for record in records:
            await producer.send(topic, encode(record), partition=partition)
            count += 1
    finally:
        await producer.stop()
    return count
