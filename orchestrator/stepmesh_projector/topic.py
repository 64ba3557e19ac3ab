"""The journal's topic as the cluster knows it, and who follows it. Must not know what records hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_projector.feed import ProjectorError


class Topic(NamedTuple):
    """`replicas`: of each partition."""

    name: str
    partitions: int
    replicas: int


class Extent(NamedTuple):
    """Offsets of a partition's first record, and after its last one."""

    begin: int
    end: int


def journal_of(namespace: Namespace) -> str:
    """Name of a journal's topic."""
    return f"stepmesh.{namespace}.journal"


async def extents(settings: KafkaSettings, topic: Topic) -> dict[Partition, Extent]:
    """Of every partition, now. Raises `ProjectorError` SM-4215."""
    places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    consumer = AIOKafkaConsumer(**settings.client_options)
    async with _asking(settings, consumer):
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    return {Partition(place.partition): Extent(begins[place], ends[place]) for place in places}


async def find(settings: KafkaSettings, name: str) -> Topic:
    """Raises `ProjectorError` SM-4214 when it is not there, SM-4215 when the cluster cannot be asked."""
    admin = AIOKafkaAdminClient(**settings.client_options)
    async with _asking(settings, admin):
        found = (await admin.describe_topics([name]))[0]
    if found["error_code"] or not found["partitions"]:
        raise ProjectorError(
            f"there is no topic {name}",
            code="SM-4214",
            hint="a deployment with --journal kafka://… makes it at its first start; check --namespace",
        )
    return Topic(name, len(found["partitions"]), len(found["partitions"][0]["replicas"]))


async def members(settings: KafkaSettings, group: str) -> int:
    """How many processes a consumer group has now. Raises `ProjectorError` SM-4215."""
    admin = AIOKafkaAdminClient(**settings.client_options)
    async with _asking(settings, admin):
        answers = [answer.to_object() for answer in await admin.describe_consumer_groups([group])]
    return sum(len(found["members"]) for answer in answers for found in answer["groups"])


@asynccontextmanager
async def _asking(settings: KafkaSettings, client: AIOKafkaAdminClient | AIOKafkaConsumer) -> AsyncGenerator[None]:
    try:
        await client.start()
        yield
    except (KafkaError, OSError) as problem:
        raise ProjectorError(
            f"Kafka at {','.join(settings.bootstrap)} cannot be asked about its topics: {problem or type(problem).__name__}",
            code="SM-4215",
            hint="does it run, and may this user describe topics and groups?",
        ) from problem
    finally:
        await (client.stop() if isinstance(client, AIOKafkaConsumer) else client.close())
