"""The topics of a namespace: their names, how they are made, and that they are there.

Invariant: a topic is made on first use, by any number of processes at once, and again after it was lost. Settings that are given here
are those that safety needs; all else is the cluster's own default. It must not know what is written to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    InvalidPartitionsError,
    KafkaError,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.records import Topic
from stepmesh_broker.protocol.subjects import checked_name

HEADER_ROOM = 64 * 1024
"""Bytes of a record kept free for headers."""
BATCH_BYTES = 256 * 1024
"""Small records go together up to this size."""
_TALK_RETENTION_MS = 10 * 60 * 1000
_TIMEOUT_MS = 5_000
_AGAIN_S = 0.1
_OF_THE_TOPIC = 1
"""Where a setting comes from, in Kafka's numbers: given to the topic itself."""
_AWAY = (KafkaError, TimeoutError, OSError, AttributeError)  # AttributeError: the client while it knows of no controller


class TopicFacts(NamedTuple):
    """`replicas`: of the partition that has the fewest. `settings`: those that were given to the topic."""

    partitions: int
    replicas: int
    settings: Mapping[str, str]


class Topics:
    """Use: `start`, then anything, then `close`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._prefix = f"stepmesh.{checked_name('namespace', settings.namespace)}"
        self.births, self.inbox, self.dead, self.talk = (f"{self._prefix}.{name}" for name in ("births", "inbox", "dead", "talk"))
        self.plain = {topic: f"{self._prefix}.{topic}" for topic in Topic}
        self._admin: Any = None
        self._known: dict[str, int] = {}
        self._making: dict[str, asyncio.Task[int]] = {}
        self._pools: dict[str, int] = {}

    def tasks(self, pool: Pool) -> str:
        """Of one pool, and the name of its consumer group. Raises `BrokerError` SM-3004 for what is no name."""
        return f"{self._prefix}.tasks.{checked_name('pool', pool)}"

    def size(self, pool: Pool, partitions: int) -> None:
        """A pool's topic shall have so many partitions when it is made or defined, in place of what the settings say."""
        self._pools[self.tasks(pool)] = partitions

    async def start(self) -> None:
        """Connect."""
        self._admin = AIOKafkaAdminClient(**self._settings.client_options)
        await self._admin.start()

    async def close(self) -> None:
        """Idempotent."""
        for making in self._making.values():
            making.cancel()
        if self._admin is not None:
            await self._admin.close()

    async def ensure(self, topic: str, *, partitions: int = 1, again: bool = False) -> int:
        """Returns how many partitions it has, at least `partitions`. `again`: ask, whatever is known. Raises `BrokerError`."""
        known = self._known.get(topic, 0)
        if known < partitions or again:
            known = await self._once(topic)
        if known < partitions:
            known = await self._grow(topic, partitions)
        return known

    async def partitions(self, topic: str) -> int:
        """How many it has; 0 when nobody made it. Raises `BrokerUnavailable`."""
        return self._known.get(topic) or await self._count(topic)

    async def facts(self, topic: str) -> TopicFacts | None:
        """What is true of it now, None when nobody made it. Raises `BrokerUnavailable`."""
        try:
            (found,) = await self._admin.describe_topics([topic])
            if not _permitted(found)["partitions"]:
                return None
            (answer,) = await self._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        except _AWAY as problem:
            raise BrokerUnavailable(f"topic {topic} cannot be looked up: {problem!r}", hint="is Kafka up?") from problem
        own = {name: value for name, value, _, source, *_ in answer.resources[0][4] if source == _OF_THE_TOPIC}
        return TopicFacts(len(found["partitions"]), min(len(one["replicas"]) for one in found["partitions"]), own)

    async def configure(self, topic: str, settings: Mapping[str, str]) -> None:
        """Give it these settings, and no others of its own. Raises `BrokerError`."""
        try:
            (answer,) = await self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(settings))])
        except _AWAY as problem:
            raise BrokerUnavailable(f"topic {topic} keeps its settings: {problem!r}", hint="is Kafka up?") from problem
        code, said, *_ = answer.resources[0]
        if for_code(code) is TopicAuthorizationFailedError:
            raise forbidden(topic)
        if code:
            raise BrokerError(f"topic {topic} keeps its settings: {said or for_code(code).__name__}", hint="see the cluster's ACLs")

    async def trim(self, partition: TopicPartition, before: int) -> None:
        """Remove the records below an offset. Raises `BrokerUnavailable`."""
        try:
            await self._admin.delete_records({partition: RecordsToDelete(before)}, timeout_ms=_TIMEOUT_MS)
        except _AWAY as problem:
            raise BrokerUnavailable(f"{partition.topic} was not trimmed: {problem!r}") from problem

    async def committed(self, group: str) -> dict[int, tuple[int, str]]:
        """What a consumer group committed of its one topic: offset and metadata by partition. Raises `BrokerUnavailable`."""
        try:
            return await self._offsets(group)
        except _AWAY as problem:
            raise BrokerUnavailable(f"the offsets of group {group} cannot be read: {problem!r}") from problem

    async def _committed(self, group: str) -> dict[int, tuple[int, str]]:
        """aiokafka's admin takes the refusal of a broker that is not the group's coordinator, or not yet, for a group without offsets."""
        coordinator = await self._admin.find_coordinator(group)
        answer = await self._admin._client.send(coordinator, OffsetFetchRequest(group, None))
        told = [said for _, partitions in answer.topics for said in partitions]
        for code in (answer.error_code, *(code for *_, code in told)):
            if code:
                raise for_code(code)(group)
        return {partition: (offset, metadata) for partition, offset, metadata, _ in told}

    async def _offsets(self, group: str) -> dict[int, tuple[int, str]]:
        """A cluster that no group was ever asked of makes its topic of offsets now, and has no coordinator until that is there."""
        until = asyncio.get_running_loop().time() + _TIMEOUT_MS / 1000
        while True:
            try:
                return await self._committed(group)
            except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _once(self, topic: str) -> int:
        """One look and one creation for all that miss it now."""
        making = self._making.get(topic)
        if making is None:
            making = self._making[topic] = asyncio.get_running_loop().create_task(self._make(topic))
            making.add_done_callback(lambda _: self._making.pop(topic, None))
        return await asyncio.shield(making)

    async def _make(self, topic: str) -> int:
        known = await self._count(topic)
        if not known:
            known, configs = self.plan(topic)
            wanted = NewTopic(topic, known, *self._settings.placement, configs)
            try:
                answer = await self._admin.create_topics([wanted], timeout_ms=_TIMEOUT_MS)
            except _AWAY as problem:
                raise BrokerUnavailable(f"topic {topic} cannot be made: {problem!r}", hint="is Kafka up?") from problem
            _, code, said = answer.topic_errors[0]
            if for_code(code) is TopicAlreadyExistsError:
                known = await self._count(topic) or known
            elif code:
                kind = BrokerUnavailable if for_code(code).retriable else BrokerError
                raise kind(f"topic {topic} cannot be made: {said or for_code(code).__name__}", hint="see the cluster's settings and ACLs")
        self._known[topic] = known
        return known

    async def _grow(self, topic: str, partitions: int) -> int:
        try:
            await self._admin.create_partitions({topic: NewPartitions(partitions)}, timeout_ms=_TIMEOUT_MS)
        except InvalidPartitionsError:  # somebody else was first
            pass
        except _AWAY as problem:
            raise BrokerUnavailable(f"topic {topic} cannot grow to {partitions} partitions: {problem!r}") from problem
        self._known[topic] = max(partitions, await self._count(topic))
        return self._known[topic]

    async def _count(self, topic: str) -> int:
        try:
            (found,) = await self._admin.describe_topics([topic])
        except _AWAY as problem:
            raise BrokerUnavailable(f"topic {topic} cannot be looked up: {problem!r}", hint="is Kafka up?") from problem
        return len(_permitted(found)["partitions"])

    def plan(self, topic: str) -> tuple[int, dict[str, str]]:
        """Partitions and settings of a topic that is made here. The broker's clock stamps every record: positions and windows go by it."""
        settings = self._settings
        largest = max(settings.max_message_bytes, BATCH_BYTES) + 2 * HEADER_ROOM
        configs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(largest)}
        if topic == self.births:
            return 1, {**configs, "retention.ms": "-1", "retention.bytes": "-1"}
        if topic == self.dead:
            return 1, {**configs, "cleanup.policy": "compact"}
        if topic == self.talk:
            return settings.talk_partitions, {**configs, "retention.ms": str(_TALK_RETENTION_MS), "min.insync.replicas": "1"}
        configs["retention.ms"] = str(round(settings.retention_s * 1000))
        return (
            settings.inbox_partitions if topic in (self.inbox, *self.plain.values()) else self._pools.get(topic, settings.pool_partitions)
        ), configs


def forbidden(topic: str) -> BrokerError:
    """SM-3053."""
    return BrokerError(
        f"this user may not use the topic {topic}",
        code="SM-3053",
        hint="give the user the ACLs of its role: infra/kafka; make the topic with `stepmesh topics --apply` if it is not there",
    )


def _permitted(found: dict[str, Any]) -> dict[str, Any]:
    """What the cluster says of a topic. It does not tell who may not know whether there is one."""
    if for_code(found["error_code"]) is TopicAuthorizationFailedError:
        raise forbidden(found["topic"])
    return found
