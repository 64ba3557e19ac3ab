"""A plain aiokafka client: idempotent producer with acks=all, one consumer group for tasks, results by assignment.

Durability is that of the scenario: the same cluster, replicas as its URL asks for, `min.insync.replicas` as the cluster has it. So is the
batching: nothing lingers, and what waits goes together up to the same size. With the client's own 16 KiB, frames would go one by one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topics import BATCH_BYTES
from stepmesh_cli.bench.raw.place import Client, Place, Role

_MOST_BYTES = 16 << 20


class KafkaSide:
    """`Side` over one producer and one consumer."""

    def __init__(self, producer: Any, consumer: Any, topic: str) -> None:
        self._producer = producer
        self._consumer = consumer
        self._topic = topic
        self._sent: list[asyncio.Future[Any]] = []

    async def send(self, messages: int, size: int) -> None:
        """Into the producer's batches."""
        value = bytes(size)
        self._sent = [one for one in self._sent if not one.done() or one.exception() is not None]
        for _ in range(messages):
            self._sent.append(await self._producer.send(self._topic, value))

    async def sent(self) -> None:
        """Acknowledged by all replicas that are in sync."""
        await asyncio.gather(*self._sent)
        self._sent = []

    async def take(self) -> int:
        """All that the client fetched."""
        while not (found := await self._consumer.getmany(timeout_ms=1000)):
            pass
        return sum(len(records) for records in found.values())

    async def close(self) -> None:
        """Producer and consumer."""
        await self._producer.stop()
        await self._consumer.stop()


def _topics(place: Place) -> tuple[str, str]:
    return f"{place.name}.tasks", f"{place.name}.results"


async def make(place: Place) -> None:
    """A topic with as many partitions as a pool's, and one with a single partition, as the inbox of a deployment with one."""
    settings = KafkaSettings.parse(place.url)
    tasks, results = _topics(place)
    admin: Any = AIOKafkaAdminClient(**settings.client_options)
    await admin.start()
    try:
        replicas, plan = settings.placement
        largest = {"max.message.bytes": str(_MOST_BYTES)}
        partitions = {tasks: settings.pool_partitions, results: 1}
        said = await admin.create_topics([NewTopic(name, count, replicas, plan, largest) for name, count in partitions.items()])
        for topic, code, message in said.topic_errors:
            if code:
                raise KafkaError(f"topic {topic}: {message or for_code(code).__name__}")
    finally:
        await admin.close()


async def opened(place: Place, role: Role) -> KafkaSide:
    """Connected, and a member of its group."""
    options = KafkaSettings.parse(place.url).client_options
    tasks, results = _topics(place)
    producer = AIOKafkaProducer(
        **options, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=BATCH_BYTES, max_request_size=_MOST_BYTES
    )
    group = place.name if role == "worker" else None
    consumer = AIOKafkaConsumer(**options, group_id=group, auto_offset_reset="earliest", max_partition_fetch_bytes=_MOST_BYTES)
    await producer.start()
    await consumer.start()
    if role == "worker":
        consumer.subscribe([tasks])
    else:
        consumer.assign([TopicPartition(results, 0)])
    return KafkaSide(producer, consumer, results if role == "worker" else tasks)


async def remove(place: Place) -> None:
    """The two topics; the group ends with its members."""
    admin = AIOKafkaAdminClient(**KafkaSettings.parse(place.url).client_options)
    await admin.start()
    try:
        await admin.delete_topics(list(_topics(place)))
    finally:
        await admin.close()


CLIENT = Client(make, opened, remove, (KafkaError,))
