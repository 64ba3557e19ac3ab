"""Names and settings of the streams of a namespace, and how they come to be.

Tasks: a work-queue stream, one durable pull consumer per pool. Inbox: a work-queue stream on disk, one consumer per reader
of a partition. Dead letters: a plain stream on disk. Invariant: making any of them twice, or by two processes at once, gives
the same thing. Inbox positions grow over a loss of the store, because a journal remembers how far it read: the first one is
the time in µs. It must not know what the messages mean.
"""

from __future__ import annotations

import time

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.protocol.ids import Partition, Pool
from stepmesh_broker.protocol.subjects import checked_name

_NAME_IN_USE = 10058
_FILTER_IN_USE = 10100
INBOX_ACK_WAIT_S = 86_400.0
"""Within one reader nothing comes twice: it is read anew (a new consumer) after a reconnect or by the next reader."""
MAX_WAITING_PULLS = 8192


class Streams:
    """The streams of `settings.namespace`, through one JetStream context. Raises `BrokerUnavailable` or `BrokerError`."""

    def __init__(self, jetstream: JetStreamContext, settings: NatsSettings) -> None:
        namespace = checked_name("namespace", settings.namespace)
        self.js = jetstream
        self._settings = settings
        self._subjects = f"stepmesh.{namespace}"
        self.tasks = f"stepmesh_{namespace}_tasks"
        self.inbox = f"stepmesh_{namespace}_inbox"
        self.dead = f"stepmesh_{namespace}_dead"
        self.dead_subject_all = f"{self._subjects}.dead.*"

    def task_subject(self, pool: Pool) -> str:
        """Where a pool's frames go."""
        return f"{self._subjects}.tasks.{checked_name('pool', pool)}"

    def inbox_subject(self, partition: Partition) -> str:
        """Where a partition's messages go."""
        return f"{self._subjects}.inbox.{partition}"

    def dead_subject(self, pool: Pool) -> str:
        """Where a pool's dead letters go."""
        return f"{self._subjects}.dead.{checked_name('pool', pool)}"

    async def ensure(self, stream: str) -> StreamInfo:
        """The stream, made if it is missing."""
        try:
            try:
                return await self.js.stream_info(stream)
            except NotFoundError:
                return await self._make(stream)
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {stream}") from problem

    async def find(self, stream: str, subject: str | None = None) -> StreamInfo | None:
        """The stream (with the number of messages on `subject`), or None."""
        try:
            return await self.js.stream_info(stream, subjects_filter=subject)
        except NotFoundError:
            return None
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {stream}") from problem

    async def join_pool(self, pool: Pool) -> StreamInfo:
        """Make sure that the pool's consumer is there; returns the stream."""
        info = await self.ensure(self.tasks)
        await self._add_consumer(self.tasks, pool, self.task_subject(pool), self._settings.ack_wait_s)
        return info

    async def open_reader(self, partition: Partition, name: str) -> None:
        """A fresh consumer that begins at the oldest message; those of earlier readers go."""
        await self.ensure(self.inbox)
        for _ in range(5):
            try:
                await self._add_consumer(self.inbox, name, self.inbox_subject(partition), INBOX_ACK_WAIT_S)
                return
            except BrokerError as problem:
                if not isinstance(problem.__cause__, APIError) or problem.__cause__.err_code != _FILTER_IN_USE:
                    raise
                for other in await self.readers(partition):
                    await self.remove_consumer(self.inbox, other)
        raise BrokerUnavailable(f"the inbox of partition {partition} is taken again and again by other readers")

    async def readers(self, partition: Partition) -> list[str]:
        """Names of the partition's consumers."""
        subject = self.inbox_subject(partition)
        found: list[str] = []
        try:
            offset = 0
            while page := await self.js.consumers_info(self.inbox, offset=offset):
                found += [consumer.name for consumer in page if consumer.config.filter_subject == subject]
                offset += len(page)
        except NotFoundError:
            return []
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumers of {self.inbox}") from problem
        return found

    async def remove_consumer(self, stream: str, name: str) -> None:
        """Remove a consumer; nothing when it is not there."""
        try:
            await self.js.delete_consumer(stream, name)
        except NotFoundError:
            return
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumer {name} of {stream}") from problem

    async def pool_consumer(self, pool: Pool) -> ConsumerInfo | None:
        """The pool's consumer, or None."""
        try:
            info: ConsumerInfo = await self.js.consumer_info(self.tasks, pool)
        except NotFoundError:
            return None
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumer {pool} of {self.tasks}") from problem
        return info

    async def _add_consumer(self, stream: str, name: str, subject: str, ack_wait_s: float) -> None:
        config = ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,  # the only one that a work queue permits
            ack_wait=ack_wait_s,
            max_ack_pending=-1,
            max_waiting=MAX_WAITING_PULLS,
            mem_storage=stream == self.inbox or None,
        )
        try:
            await self.js.add_consumer(stream, config)
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumer {name} of {stream}") from problem

    async def _make(self, stream: str) -> StreamInfo:
        try:
            return await self.js.add_stream(self._config(stream))
        except APIError as problem:
            if problem.err_code != _NAME_IN_USE:
                raise
            return await self.js.stream_info(stream)  # another process was quicker

    def _config(self, stream: str) -> StreamConfig:
        kind = stream.rpartition("_")[2]
        in_memory = stream == self.tasks and self._settings.task_storage == "memory"
        return StreamConfig(
            name=stream,
            subjects=[f"{self._subjects}.{kind}.*"],
            retention=RetentionPolicy.LIMITS if stream == self.dead else RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY if in_memory else StorageType.FILE,
            num_replicas=self._settings.replicas,
            duplicate_window=self._settings.dedupe_window_s,
            first_seq=time.time_ns() // 1000 if stream == self.inbox else None,
        )


def as_broker_error(problem: Exception, where: str) -> BrokerError:
    """What a nats-py error means to a caller: to be retried (`BrokerUnavailable`), or not."""
    if isinstance(problem, ServiceUnavailableError) and problem.err_code is None:
        return BrokerUnavailable(f"{where}: no JetStream on this NATS server", hint="start nats-server with -js, or check the account")
    if isinstance(problem, APIError) and (problem.code or 0) < 500:
        return BrokerError(f"{where}: {problem.description}", hint=f"JetStream error {problem.err_code}")
    return BrokerUnavailable(f"{where}: {problem or type(problem).__name__}", hint="is nats-server up?")
