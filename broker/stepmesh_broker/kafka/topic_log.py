"""Topics as logs: where a partition begins and ends, what lies from an offset on, and an append that tells its offset.

aiokafka's consumer fetches ahead on its own; whoever looks here and there asks for exactly what it wants, so this speaks Kafka's protocol
through aiokafka's client. Invariant: a question goes to the partition's leader, and is asked again while there is none, until
`patience_s` is over. An append is idempotent: it is in the log once, or not, but it may come after the time is over. It must not
know what the records mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record import MemoryRecords

from stepmesh_broker.ending import ended
from stepmesh_broker.kafka.settings import KafkaSettings

_log = logging.getLogger(__name__)
_PAUSE_S = 0.05
STOP_S = 1.0
_WAIT_MS = 250
_ONE = 1
"""Bytes; a broker gives at least one batch."""
_MOST_BYTES = 16 << 20
_EARLIEST, _LATEST = -2, -1


class NoAnswer(Exception):
    """The cluster did not answer, or refused, until the time was over."""


class LogRecord(NamedTuple):
    """A record's offset and value; `time_ms` as its topic says: the writer's or the broker's."""

    offset: int
    value: bytes
    time_ms: int


class TopicFacts(NamedTuple):
    """What is true of a topic now; `replicas` of its partition that has the fewest."""

    partitions: int
    replicas: int
    settings: Mapping[str, str]


class TopicLogs:
    """The logs of one cluster. Use: `open`, then anything, then `close`. Every call raises `NoAnswer`."""

    def __init__(self, settings: KafkaSettings, patience_s: float = 10.0) -> None:
        self._settings = settings
        self._patience_s = patience_s
        self._client: Any = None
        self._admin: Any = None
        self._producer: Any = None
        self._making = asyncio.Lock()

    async def open(self) -> None:
        """Connect."""
        options = self._settings.client_options
        self._client = AIOKafkaClient(**options)
        self._admin = AIOKafkaAdminClient(**options)
        try:
            await self._client.bootstrap()
            await self._admin.start()
            self._producer = await self._new_producer()
        except KafkaError as problem:
            await self.close()
            raise NoAnswer(str(problem)) from problem
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """What is not sent yet is waited for no longer. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ensure(self, topic: str, partitions: int, configs: Mapping[str, str]) -> TopicFacts:
        """The topic, made if it is missing, with as many replicas as the settings say or the cluster has by itself."""
        deadline = self._deadline()
        while True:
            try:
                found = await self._facts(topic)
                if found is not None:
                    return found
                wanted = NewTopic(topic, partitions, *self._settings.placement, topic_configs=dict(configs))
                for _, code, *_ in (await self._admin.create_topics([wanted])).topic_errors:
                    if code and for_code(code) is not TopicAlreadyExistsError:
                        raise for_code(code)(topic)
            except KafkaError as problem:
                await self._again(deadline, problem)
            else:
                if asyncio.get_running_loop().time() > deadline:
                    raise NoAnswer(f"a partition of {topic} has no leader")
                await asyncio.sleep(_PAUSE_S)

    async def find(self, topic: str) -> TopicFacts | None:
        """None when there is no such topic."""
        deadline = self._deadline()
        while True:
            try:
                return await self._facts(topic)
            except KafkaError as problem:
                await self._again(deadline, problem)

    async def begin(self, topic: str, partition: int) -> int:
        """The first offset."""
        return await self._offset(topic, partition, _EARLIEST)

    async def end(self, topic: str, partition: int) -> int:
        """The offset after the last record that no failure of a minority undoes."""
        return await self._offset(topic, partition, _LATEST)

    async def fetch(self, topic: str, partition: int, offset: int, max_bytes: int = _ONE) -> list[LogRecord]:
        """Records from an offset on, or from the log's begin when that is later: a batch at least, about `max_bytes`; none at the end."""
        deadline = self._deadline()
        while True:
            try:
                return await self._fetch(topic, partition, offset, max_bytes)
            except OffsetOutOfRangeError:
                begin = await self.begin(topic, partition)
                if offset >= begin:
                    return []
                offset = begin
            except KafkaError as problem:
                await self._again(deadline, problem)

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        """Its offset, once every replica in sync has it. After `NoAnswer` it may be there, or come still."""
        producer = None
        try:
            async with asyncio.timeout(self._patience_s):
                producer = await self._sender()
                sent = await producer.send(topic, value, partition=partition)
                sent.add_done_callback(_heard)  # nobody may wait for it any more
                offset: int = (await asyncio.shield(sent)).offset
        except TimeoutError as problem:
            raise NoAnswer("it took too long") from problem
        except KafkaError as problem:  # an idempotent producer is of no use after what cannot be tried again
            if producer is not None and self._producer is producer:
                self._producer = None
                await _stop(producer)
            raise NoAnswer(f"{type(problem).__name__} {problem}") from problem
        if offset < 0:
            raise NoAnswer("it is there twice")
        return offset

    async def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Remove the records below an offset."""
        self._require_open()
        deadline = self._deadline()
        while True:
            try:
                await self._admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)})
                return
            except KafkaError as problem:
                await self._again(deadline, problem)

    async def _facts(self, topic: str) -> TopicFacts | None:
        """None when there is no such topic."""
        (found,) = await self._admin.describe_topics([topic])
        parts = found["partitions"]
        if found["error_code"] or not parts or any(part["leader"] < 0 for part in parts):
            return None
        self._client.add_topic(topic)
        (answer,) = await self._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        (resource,) = answer.resources
        if resource[0]:  # this broker does not know it yet
            raise for_code(resource[0])(topic)
        settings = {entry[0]: entry[1] or "" for entry in resource[4]}
        return TopicFacts(len(parts), min(len(part["replicas"]) for part in parts), settings)

    async def _offset(self, topic: str, partition: int, which: int) -> int:
        deadline = self._deadline()
        while True:
            try:
                request = OffsetRequest(-1, 0, [(topic, [(partition, which)])])
                ((_, ((_, code, *found),)),) = (await self._at_leader(topic, partition, request)).topics
                if code:
                    raise for_code(code)(topic)
                offset: int = found[1]
                return offset
            except KafkaError as problem:
                await self._again(deadline, problem)

    async def _fetch(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        request = FetchRequest(_WAIT_MS, 1, _MOST_BYTES, 0, [(topic, [(partition, offset, max_bytes)])])
        ((_, ((_, code, *found),)),) = (await self._at_leader(topic, partition, request)).topics
        if code:
            raise for_code(code)(topic)
        batches = MemoryRecords(found[-1])
        records: list[LogRecord] = []
        while batches.has_next():
            batch = batches.next_batch()
            if batch is not None and not batch.is_control_batch:
                records += [
                    LogRecord(record.offset, record.value or b"", record.timestamp or 0) for record in batch if record.offset >= offset
                ]
        return records

    async def _at_leader(self, topic: str, partition: int, request: Any) -> Any:
        self._require_open()
        node = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if node is None or node < 0:
            raise KafkaError(f"{topic}/{partition} has no leader at present")
        return await self._client.send(node, request)

    async def _again(self, deadline: float, problem: KafkaError) -> None:
        """A pause, and a look at who leads. Raises `NoAnswer` when the time is over."""
        if asyncio.get_running_loop().time() > deadline:
            raise NoAnswer(f"{type(problem).__name__} {problem}") from problem
        await asyncio.sleep(_PAUSE_S)
        self._require_open()
        await self._client.force_metadata_update()

    async def _sender(self) -> Any:
        """The producer; another one when the last was of no use any more."""
        self._require_open()
        async with self._making:
            if self._producer is None:
                self._producer = await self._new_producer()
            return self._producer

    def _require_open(self) -> None:
        if self._client is None:
            raise NoAnswer("it is not open")

    async def _new_producer(self) -> Any:
        producer = AIOKafkaProducer(
            **self._settings.client_options, acks="all", enable_idempotence=True, max_request_size=_MOST_BYTES, max_batch_size=1 << 20
        )
        await producer.start()
        return producer

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience_s


async def _stop(producer: Any) -> None:
    """It would wait for what it holds for ever while a broker is away, and send it one day if it were only left alone."""
    try:
        if await ended(producer.stop(), STOP_S):
            return
    except KafkaError as problem:
        _log.info("a producer did not stop in order: %s", problem)
    for part in (producer._sender, producer.client):
        try:
            await ended(part.close(), STOP_S)
        except KafkaError as problem:
            _log.info("nor did a part of it: %s", problem)


def _heard(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()
