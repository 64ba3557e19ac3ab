"""The clients of one connection to a Kafka cluster, opened and closed together, and its inboxes over the lives of the data.

Invariant: after `connect` every client is there, after `close` none; an open inbox follows the data into a new life. It must not know what
messages mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from aiokafka.errors import KafkaError

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka.dead import DeadLetters
from stepmesh_broker.kafka.inbox import KafkaInbox
from stepmesh_broker.kafka.life import Life, Lives
from stepmesh_broker.kafka.lookup import LookUp
from stepmesh_broker.kafka.membership import Seat
from stepmesh_broker.kafka.plain_topic import KafkaTopicReader
from stepmesh_broker.kafka.pool import Pools
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.reader import LogReader
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.source import KafkaTaskSource
from stepmesh_broker.kafka.talk import Talk
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.records import Topic
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)
_WATCH_S = 1.0
TALK_PATIENCE_S = 2.0
"""What nobody took by then is no news any more."""


class Connection:
    """Use: `connect`, then anything, then `close`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.topics = Topics(settings)
        self.publisher = Publisher(settings, self.topics, lasting=True, patience_s=settings.publish_timeout_s)
        self._talker = Publisher(settings, self.topics, lasting=False, patience_s=min(TALK_PATIENCE_S, settings.publish_timeout_s))
        self._reader = LogReader(settings)
        self.lookup = LookUp(settings)
        self.lives = Lives(self.topics, self.publisher, self.lookup, self._reborn)
        self.pools = Pools(self.topics, self.publisher, self.lookup, self.lives)
        self.dead = DeadLetters(self.topics, self.publisher, self.lookup)
        self.talk = Talk(self.topics, self._talker, self._reader, settings.max_message_bytes)
        self._sources: list[KafkaTaskSource] = []
        self._inboxes: dict[Partition, KafkaInbox] = {}
        self._readers: set[KafkaTopicReader] = set()
        self._watching: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._open = self._closed = False

    async def connect(self) -> None:
        """Raises `BrokerUnavailable` when it does not succeed within `connect_timeout_s`."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self.topics.start()  # alone: a cluster that is away is found out once
                await asyncio.gather(self.publisher.start(), self._talker.start(), self._reader.start(), self.lookup.start())
        except (KafkaError, TimeoutError, OSError) as problem:
            await self._disconnect()
            hosts = ", ".join(self._settings.bootstrap)
            raise BrokerUnavailable(
                f"no connection to {hosts}: {problem!r}", hint="is Kafka up, and are address, user and password right?"
            ) from problem
        self._open = True

    async def close(self) -> None:
        """Flush, then disconnect. Idempotent."""
        if self._closed or not self._open:
            self._closed = True
            return
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*(reader.close() for reader in self._readers), *(source.close() for source in self._sources))
        await asyncio.gather(*(source.hand_back() for source in self._sources))
        await self.talk.close()
        await self._disconnect()

    def check(self) -> None:
        """Raises `BrokerUnavailable` before `connect` and after `close`."""
        if self._closed or not self._open:
            raise BrokerUnavailable("this connection is not open", hint="call connect() first, and nothing after close()")

    async def open_source(self, pool: Pool) -> KafkaTaskSource:
        """Join a pool's consumer group."""
        topic = self.topics.tasks(pool)
        subject = Subject(f"{topic}.hungry")
        number = sum(source.topic == topic and not source.is_closed for source in self._sources)
        instance = f"{self._settings.instance}.{number}" if self._settings.instance else None
        seat = partial(Seat, self._settings, self.pools.standing, topic, instance)
        source = KafkaTaskSource(self._settings, self.topics, self.publisher, topic, seat, partial(self.talk.send, subject))
        self._sources = [*(kept for kept in self._sources if not kept.is_over), source]
        try:
            await source.open()
            source.listener = await self.talk.listen(subject, source.heard)
        except BaseException:  # whoever is in the group and takes nothing keeps its partitions from the others
            await source.close()
            raise
        return source

    async def open_inbox(self, partition: Partition, after: Position) -> KafkaInbox:
        """Take a partition over."""
        life = await self.lives.present()
        await self.topics.ensure(self.topics.inbox, partitions=partition + 1)
        inbox = KafkaInbox(self.topics, self.publisher, self._reader, partition, after, self._settings.dedupe_window_s)
        await inbox.open(life)
        older, self._inboxes[partition] = self._inboxes.get(partition), inbox
        if older is not None:
            older.lose()
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="stepmesh kafka life")
        return inbox

    async def open_records(self, topic: Topic, partition: Partition, partitions: int) -> KafkaTopicReader:
        """Read a share of a topic of plain records."""
        reader = KafkaTopicReader(self._settings, self.topics, self.topics.plain[topic], partition, partitions)
        await reader.open()
        self._readers = {one for one in self._readers if not one.is_closed} | {reader}
        return reader

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside, until this connection closes."""
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _watch(self) -> None:
        """An inbox must not go on counting in a life that is over."""
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await self.lives.present()
            except BrokerError as problem:
                _log.info("the life of the data is looked at later: %s", problem)

    def _reborn(self, life: Life) -> None:
        _log.warning("the cluster lost the data of namespace %s; inboxes begin anew", self._settings.namespace)
        for inbox in self._inboxes.values():
            if not inbox.is_over:
                self.spawn(self._reopen(inbox, life))

    async def _reopen(self, inbox: KafkaInbox, life: Life) -> None:
        while not inbox.is_over:
            try:
                await self.topics.ensure(self.topics.inbox, partitions=inbox.partition + 1, again=True)
                await inbox.open(life)
                return
            except BrokerError as problem:
                _log.warning("the inbox of partition %d is opened again later: %s", inbox.partition, problem)
                await asyncio.sleep(_WATCH_S)

    async def _disconnect(self) -> None:
        parts = (self.publisher, self._talker, self._reader, self.lookup, self.topics)
        for outcome in await asyncio.gather(*(part.close() for part in parts), return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.info("while disconnecting: %r", outcome)
