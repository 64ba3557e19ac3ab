"""A seat in a pool's consumer group: which partitions are mine, since when, and what I commit of them.

Invariant: a partition is given up only after what became of its frames was committed, and taken up from what its last owner committed.
The group's fencing is not relied on: what is done twice over a lost seat is caught by claims. It must not know how frames are handed out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError

from stepmesh_broker.ending import ended
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka.pool import Standing
from stepmesh_broker.kafka.reader import LONG_POLL_MS
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.stopping import stop
from stepmesh_broker.kafka.topics import HEADER_ROOM

_log = logging.getLogger(__name__)
HEARTBEAT_MS = 200
"""How soon a member hears of a rebalance, in which all stand still."""
USUAL_SESSION_MS = 6_000
"""What every cluster allows unless it is told otherwise."""
_NEVER_MS = (1 << 31) - 1
"""A member that takes nothing stays a member: its tasks may be long."""
METADATA_MS = 5_000
"""How old a member's view of the topic may be. A group that comes together again before a lost topic is made anew shares out nothing, and
looks again only then."""
_FETCH_BYTES = 8 << 20
_JOIN_S = 10.0
COMMIT_S = 2.0
"""What a commit may take."""
_RETRY_S = 0.1
Committed = Mapping[int, tuple[int, str]]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, revoked: Callable[[Any], Any], assigned: Callable[[Any], Any]) -> None:
        self._revoked = revoked
        self._assigned = assigned

    def on_partitions_revoked(self, revoked: Any) -> Any:
        return self._revoked(revoked)

    def on_partitions_assigned(self, assigned: Any) -> Any:
        return self._assigned(assigned)


class Seat:
    """`instance`: a name that outlives this process, if it has one. `standing`: asked what was committed.

    `taken` gets that of the partitions that are now mine; `given_up` returns what to commit of all that I had.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        standing: Callable[[str], Awaitable[Standing]],
        topic: str,
        instance: str | None,
        taken: Callable[[Standing], None],
        given_up: Callable[[], Awaitable[Committed]],
    ) -> None:
        self._settings = settings
        self._standing = standing
        self._topic = topic
        self._instance = instance
        self._taken = taken
        self._given_up = given_up
        self._consumer: Any = None
        self._taking: asyncio.Task[None] | None = None
        self._mine: frozenset[int] = frozenset()
        self._settled = asyncio.Event()

    async def join(self) -> None:
        """Returns once the group knows this member. Raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(_JOIN_S):
                try:
                    await self._start(round(self._settings.session_s * 1000))
                except InvalidSessionTimeoutError:
                    await self._start(USUAL_SESSION_MS)
                await self._settled.wait()
        except (KafkaError, TimeoutError) as problem:
            await self.leave()
            raise BrokerUnavailable(f"the consumer group of {self._topic} cannot be joined: {problem!r}", hint="is Kafka up?") from problem

    async def leave(self) -> None:
        """Give up all partitions. Idempotent."""
        if self._taking is not None:
            self._taking.cancel()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self.commit(await self._given_up(), consumer)
            await stop(consumer)

    async def records(self, most: int) -> Mapping[int, Sequence[Any]]:
        """What came, by partition; empty after a while."""
        if self._consumer is None:
            await asyncio.sleep(_RETRY_S)
            return {}
        try:
            found = await self._consumer.getmany(timeout_ms=500, max_records=most)
        except KafkaError as problem:
            _log.warning("taking tasks of %s goes on after: %r", self._topic, problem)
            await asyncio.sleep(_RETRY_S)
            return {}
        return {place.partition: records for place, records in found.items()}

    async def commit(self, offsets: Committed, consumer: Any = None) -> bool:
        """False when it could not be done in time; then it comes with the next one. aiokafka tries for as long as there is no coordinator,
        or no such topic, and no rebalance ends meanwhile."""
        using = consumer or self._consumer
        if using is None or not offsets:
            return not offsets
        try:
            return await ended(
                using.commit({TopicPartition(self._topic, partition): said for partition, said in offsets.items()}), COMMIT_S
            )
        except KafkaError as problem:
            _log.info("offsets of %s were not committed: %r", self._topic, problem)
            return False

    def seek(self, partition: int, offset: int) -> None:
        """Read again from there."""
        if self._consumer is not None and partition in self._mine:
            self._consumer.seek(TopicPartition(self._topic, partition), offset)

    def flow(self, wanted: bool) -> None:
        """Whether more is taken from the broker."""
        if self._consumer is None:
            return
        places = [place for place in self._consumer.assignment() if place.partition in self._mine]
        if wanted:
            self._consumer.resume(*places)
        else:
            self._consumer.pause(*places)

    async def _revoked(self, revoked: Any) -> None:
        """All of them: a rebalance begins."""
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        self._mine = frozenset()
        if revoked and self._consumer is not None:
            await self.commit(await self._given_up())

    async def _assigned(self, assigned: Any) -> None:
        """A rebalance ended. What was committed is looked up beside, so that the group hears of this member meanwhile."""
        self._taking = asyncio.get_running_loop().create_task(self._take(frozenset(place.partition for place in assigned)))

    async def _take(self, partitions: frozenset[int]) -> None:
        while True:
            try:
                standing = await self._standing(self._topic) if partitions else Standing("", {})
                break
            except BrokerUnavailable as problem:
                _log.warning("%s", problem)
                await asyncio.sleep(_RETRY_S)
        mine = {partition: standing.committed.get(partition, (0, None)) for partition in partitions}
        for partition, (offset, _) in mine.items():
            self._consumer.seek(TopicPartition(self._topic, partition), offset)
        self._mine = partitions
        self._taken(standing._replace(committed=mine))
        self._settled.set()

    async def _start(self, session_ms: int) -> None:
        if self._consumer is not None:
            await stop(self._consumer)
        self._consumer = AIOKafkaConsumer(
            **self._settings.client_options,
            group_id=self._topic,
            group_instance_id=self._instance,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=HEARTBEAT_MS,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=_NEVER_MS,
            fetch_max_wait_ms=LONG_POLL_MS,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=self._settings.max_message_bytes + HEADER_ROOM,
            retry_backoff_ms=50,
            metadata_max_age_ms=METADATA_MS,
        )
        self._consumer.subscribe([self._topic], listener=_Listener(self._revoked, self._assigned))
        await self._consumer.start()
