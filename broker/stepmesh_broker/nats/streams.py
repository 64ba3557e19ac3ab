"""Names and settings of the streams of a namespace, and how they come to be.

Tasks: a work-queue stream, one durable pull consumer per pool. Inbox: a work-queue stream on disk, one consumer per reader
of a partition. Plain records: a stream per topic, likewise, with one reader. Dead letters: a plain stream on disk. Invariant: making any
of them twice, or by two processes at once, gives the same thing; a stream that is there never gets fewer copies. Positions of inbox and
plain records grow over a loss of the store, because journals remember what was read: the first one is the time in µs. It must not know
what the messages mean.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.wire import Wire
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.records import Topic
from stepmesh_broker.protocol.subjects import checked_name

_log = logging.getLogger(__name__)
API_TIMEOUT_S = 2.0
_CLUSTER_REPLICAS = 3
_NAME_IN_USE = 10058
_FILTER_IN_USE = 10100
_NO_STREAM = 10059
_NO_PEERS = 10005
INBOX_ACK_WAIT_S = 86_400.0
"""Within one reader nothing comes twice: it is read anew (a new consumer) after a reconnect or by the next reader."""
MAX_WAITING_PULLS = 8192


class Refusal(msgspec.Struct, gc=False):
    """What JetStream says instead of an answer."""

    code: int
    err_code: int = 0
    description: str = ""


class _Names(msgspec.Struct, gc=False):
    consumers: list[str] | None = None
    total: int = 0
    error: Refusal | None = None


_decode_names = msgspec.json.Decoder(_Names).decode


class Share(NamedTuple):
    """What one reader at a time reads: the messages of a subject of a work queue. `prefix`: how the names of its consumers begin."""

    stream: str
    subject: str
    prefix: str


class Names:
    """What the streams of a namespace are called, and their subjects."""

    def __init__(self, namespace: Namespace) -> None:
        checked_name("namespace", namespace)
        self._subjects = f"stepmesh.{namespace}"
        self.tasks = f"stepmesh_{namespace}_tasks"
        self.inbox = f"stepmesh_{namespace}_inbox"
        self.plain = {topic: f"stepmesh_{namespace}_{topic}" for topic in Topic}
        self.dead = f"stepmesh_{namespace}_dead"
        self.dead_subject_all = f"{self._subjects}.dead.*"
        self.inbox_subject_all = f"{self._subjects}.inbox.*"

    def task_subject(self, pool: Pool) -> str:
        """Where a pool's frames go."""
        return f"{self._subjects}.tasks.{checked_name('pool', pool)}"

    def inbox_subject(self, partition: Partition) -> str:
        """Where a partition's messages go."""
        return f"{self._subjects}.inbox.{partition}"

    def inbox_share(self, partition: Partition) -> Share:
        """A partition's inbox, for its reader."""
        return Share(self.inbox, self.inbox_subject(partition), f"p{partition}-")

    def plain_subject(self, topic: Topic) -> str:
        """Where plain records are written."""
        return f"{self._subjects}.{topic}"

    def plain_share(self, topic: Topic) -> Share:
        """All records of a topic, for their reader."""
        return Share(self.plain[topic], self.plain_subject(topic), "reader-")

    def dead_subject(self, pool: Pool) -> str:
        """Where a pool's dead letters go."""
        return f"{self._subjects}.dead.{checked_name('pool', pool)}"


class Streams(Names):
    """The streams of `settings.namespace`, through one connection. Raises `BrokerUnavailable` or `BrokerError`."""

    def __init__(self, wire: Wire, settings: NatsSettings) -> None:
        super().__init__(settings.namespace)
        self._wire = wire
        self.js = wire.jetstream(timeout=API_TIMEOUT_S)
        self._settings = settings

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

    async def agree(self) -> None:
        """Give the streams that are there the settings that are wanted; what cannot be changed, or not by this user, is logged."""
        for stream in (self.tasks, self.inbox, *self.plain.values(), self.dead):
            info = await self.find(stream)
            if info is not None:
                await self._agree(info.config, self.wanted(stream))

    async def define(self) -> list[dict[str, Any]]:
        """Make what is missing, then `agree`; returns the settings that count now."""
        for stream in (self.tasks, self.inbox, *self.plain.values(), self.dead):
            await self.ensure(stream)
        await self.agree()
        return [told["found"] for told in await self.definitions()]

    async def definitions(self) -> list[dict[str, Any]]:
        """What is wanted of each stream, as the server's API has it, and what is `found`."""
        told: list[dict[str, Any]] = []
        for stream in (self.tasks, self.inbox, *self.plain.values(), self.dead):
            info = await self.find(stream)
            told.append({**described(self.wanted(stream)), "found": described(info.config) if info else None})
        return told

    async def join_pool(self, pool: Pool) -> StreamInfo:
        """Make sure that the pool's consumer is there; returns the stream."""
        info = await self.ensure(self.tasks)
        await self._add_consumer(self.tasks, pool, self.task_subject(pool), self._settings.ack_wait_s)
        return info

    async def open_reader(self, share: Share, name: str) -> None:
        """A fresh consumer that begins at the oldest message; those of earlier readers go."""
        await self.ensure(share.stream)
        for _ in range(5):
            try:
                await self._add_consumer(share.stream, name, share.subject, INBOX_ACK_WAIT_S)
                return
            except BrokerError as problem:
                if not isinstance(problem.__cause__, APIError) or problem.__cause__.err_code != _FILTER_IN_USE:
                    raise
                for other in await self.readers(share):
                    await self.remove_consumer(share.stream, other)
        raise BrokerUnavailable(f"{share.subject} is taken again and again by other readers")

    async def readers(self, share: Share) -> list[str]:
        """Names of its consumers: what a cluster knows without asking the node of each consumer."""
        found: list[str] = []
        try:
            while True:
                request = b'{"offset":%d}' % len(found)
                page = _decode_names((await self._wire.request(f"$JS.API.CONSUMER.NAMES.{share.stream}", request, API_TIMEOUT_S)).data)
                if page.error is not None and page.error.err_code != _NO_STREAM:
                    raise BrokerUnavailable(
                        f"consumers of {share.stream}: {page.error.description}", hint=f"JetStream error {page.error.err_code}"
                    )
                found += page.consumers or []
                if not page.consumers or len(found) >= page.total:
                    return [name for name in found if name.startswith(share.prefix)]
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumers of {share.stream}") from problem

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
            mem_storage=(stream != self.tasks and not self._wire.in_cluster) or None,  # a cluster must find it again after a restart
        )
        try:
            await self.js.add_consumer(stream, config)
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, f"consumer {name} of {stream}") from problem

    async def _make(self, stream: str) -> StreamInfo:
        try:
            return await self.js.add_stream(self.wanted(stream))
        except APIError as problem:
            if problem.err_code != _NAME_IN_USE:
                raise
            found = await self.find(stream)  # another process was quicker
            if found is None:
                raise BrokerUnavailable(f"stream {stream} is being made by another process", hint="try again") from problem
            return found

    async def _agree(self, found: StreamConfig, wanted: StreamConfig) -> None:
        replicas = max(found.num_replicas or 1, wanted.num_replicas or 1)
        if found.storage != wanted.storage or replicas != wanted.num_replicas:
            _log.warning("stream %s keeps %s storage and %d replicas, made so earlier", found.name, found.storage, found.num_replicas)
        if (found.num_replicas, found.duplicate_window) == (replicas, wanted.duplicate_window):
            return
        try:
            await self.js.update_stream(found.evolve(num_replicas=replicas, duplicate_window=wanted.duplicate_window))
            _log.info("stream %s now has %d replicas and a dedupe window of %s s", found.name, replicas, wanted.duplicate_window)
        except (TimeoutError, NatsError, BrokerError) as problem:
            _log.warning("stream %s keeps its settings: %s", found.name, problem)

    def wanted(self, stream: str) -> StreamConfig:
        """The settings of one of the streams where this connection leads to."""
        kind, plain = stream.rpartition("_")[2], self.plain.values()
        in_memory = stream == self.tasks and self._settings.task_storage == "memory" and not self._wire.in_cluster
        replicas = self._settings.replicas or (_CLUSTER_REPLICAS if self._wire.in_cluster else 1)
        return StreamConfig(
            name=stream,
            subjects=[f"{self._subjects}.{kind}" if stream in plain else f"{self._subjects}.{kind}.*"],
            retention=RetentionPolicy.LIMITS if stream == self.dead else RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY if in_memory else StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=self._settings.dedupe_window_s,
            first_seq=time.time_ns() // 1000 if stream == self.inbox or stream in plain else None,
        )


def described(config: StreamConfig) -> dict[str, Any]:
    """What an operator chooses or wants to see; times in seconds."""
    return {
        "name": config.name,
        "subjects": config.subjects,
        "retention": RetentionPolicy(config.retention or RetentionPolicy.LIMITS).value,
        "storage": StorageType(config.storage or StorageType.FILE).value,
        "replicas": config.num_replicas,
        "dedupe_window_s": config.duplicate_window,
    }


def as_broker_error(problem: Exception, where: str) -> BrokerError:
    """What a nats-py error means to a caller: to be retried (`BrokerUnavailable`), or not."""
    if isinstance(problem, ServiceUnavailableError) and problem.err_code is None:
        return BrokerUnavailable(f"{where}: no JetStream on this NATS server", hint="start nats-server with -js, or check the account")
    if isinstance(problem, APIError) and (problem.code or 0) < 500 and not _are_offline(problem):
        return BrokerError(f"{where}: {problem.description}", hint=f"JetStream error {problem.err_code}")
    return BrokerUnavailable(f"{where}: {problem or type(problem).__name__}", hint="is nats-server up?")


def _are_offline(problem: APIError) -> bool:
    """A cluster that has just begun, or misses a server, says so of a new stream as if it were the caller's fault."""
    return problem.err_code == _NO_PEERS and "offline" in (problem.description or "")
