"""`KafkaBroker`: the Broker port over Apache Kafka.

Invariant: names and sizes are checked here, before anything is sent. It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from stepmesh_broker.errors import BrokerError, MessageTooLarge
from stepmesh_broker.kafka.connection import Connection
from stepmesh_broker.kafka.definitions import define, definitions
from stepmesh_broker.kafka.inbox import KafkaInbox
from stepmesh_broker.kafka.plain_topic import KafkaTopicReader
from stepmesh_broker.kafka.records import Outgoing, headers_of
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.source import KafkaTaskSource
from stepmesh_broker.kafka.subscription import KafkaServer
from stepmesh_broker.listening import Listener
from stepmesh_broker.ports import START, Handler, Parked, PoolDepth, Promises, Responder, Subscription
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)


class KafkaBroker:
    """`Broker` for the namespace of its settings."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._topics = self._connection.topics
        self._parts: WeakSet[Subscription] = WeakSet()

    @property
    def max_message_bytes(self) -> int:
        """As set; topics are made to take it."""
        return self._settings.max_message_bytes

    @property
    def promises(self) -> Promises:
        """A Kafka topic is partitions side by side: no ids over producers, no order over partitions."""
        return Promises(ids_shared=False, floor_exact=False, order_across_subjects=False)

    async def connect(self) -> None:
        """Connect; from then on the clients reconnect by themselves."""
        await self._connection.connect()

    async def close(self) -> None:
        """End everything that this connection opened, flush, then disconnect."""
        await asyncio.gather(*(part.close() for part in self._parts))
        await self._connection.close()

    async def incarnation(self) -> str:
        """The name of the present life of the namespace's data."""
        self._connection.check()
        return (await self._connection.lives.present()).name

    async def definitions(self, pools: Mapping[Pool, int | None]) -> list[dict[str, Any]]:
        """The wanted topics of the namespace and of these pools (with so many partitions); under `found` what is there, or None."""
        self._check()
        return await definitions(self._topics, self._settings.replicas, pools)

    async def define(self, pools: Mapping[Pool, int | None]) -> None:
        """Make what is missing; let topics grow, give them the wanted settings."""
        self._check()
        await define(self._topics, pools)
        await self._connection.lives.present()

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Add a frame to a pool."""
        self._topics.tasks(pool)
        self._check(data)
        return await self._connection.pools.publish(pool, data, message_id)

    async def tasks(self, pool: Pool) -> KafkaTaskSource:
        """Join the pool's consumer group."""
        self._topics.tasks(pool)
        self._check()
        return await self._connection.open_source(pool)

    async def depth(self, pool: Pool) -> PoolDepth:
        """From what the group committed."""
        self._topics.tasks(pool)
        self._check()
        return await self._connection.pools.depth(pool)

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        """Add to a partition's inbox; durable as the topic's replicas make it."""
        self._check(data)
        life = await self._connection.lives.known()
        await self._topics.ensure(self._topics.inbox, partitions=partition + 1)
        headers = headers_of(message_id=message_id) if message_id else headers_of()
        stored = await self._connection.publisher.publish(Outgoing(self._topics.inbox, partition, data, headers), message_id)
        return Position(life.born + stored.offset + 1)

    async def inbox(self, partition: Partition, after: Position) -> KafkaInbox:
        """Read a partition's inbox."""
        self._check()
        inbox = await self._connection.open_inbox(partition, after)
        self._parts.add(inbox)
        return inbox

    async def records(self, topic: Topic, partition: Partition, partitions: int) -> KafkaTopicReader:
        """The topic's partitions that leave `partition` when they are divided by `partitions`; those that are added later as well."""
        self._check()
        return await self._connection.open_records(topic, partition, partitions)

    async def write(self, topic: Topic, record: PlainRecord) -> None:
        """Into its lane, or the first one of a topic that has fewer now."""
        self._check(record.value)
        name = self._topics.plain[topic]
        lane = record.lane if record.lane < await self._topics.ensure(name) else 0
        await self._connection.publisher.publish(Outgoing(name, lane, record.value, list(record.headers.items()), record.key or None))

    async def park(self, pool: Pool, data: bytes, reason: str, source: bytes = b"") -> Position:
        """Put a message into the dead-letter topic; of the reason, the first 1,000 characters are kept."""
        self._topics.tasks(pool)
        self._check(data)
        return await self._connection.dead.park(pool, data, reason, source)

    async def parked(self, limit: int = 1000, after: Position = START) -> Sequence[Parked]:
        """Oldest first."""
        self._check()
        return await self._connection.dead.parked(limit, after)

    async def drop_parked(self, position: Position) -> bool:
        """Remove one."""
        self._check()
        return await self._connection.dead.drop(position)

    async def send(self, subject: Subject, data: bytes) -> None:
        """Tell whoever listens now."""
        self._check(data)
        await self._connection.talk.send(_safe(subject), data)

    async def listen(self, subject: Subject, handler: Handler) -> Listener:
        """Hear all that is sent to `subject` from now on."""
        self._check()
        return await self._connection.talk.listen(_safe(subject), handler)

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask; the first answer counts."""
        self._check(data)
        return await self._connection.talk.request(_safe(subject), data, timeout_s)

    async def serve(self, subject: Subject, responder: Responder, group: str = "") -> KafkaServer:
        """Answer requests."""
        self._check()
        return await self._connection.talk.serve(_safe(subject), responder, group)

    def _check(self, data: bytes = b"") -> None:
        self._connection.check()
        if len(data) > self.max_message_bytes:
            raise MessageTooLarge.of(len(data), self.max_message_bytes)


def _safe(subject: Subject) -> Subject:
    if not subject.isprintable() or " " in subject or not subject:
        raise BrokerError(f"{subject!r} is not a subject", code="SM-3004", hint="use the functions of stepmesh_broker.protocol.subjects")
    return subject
