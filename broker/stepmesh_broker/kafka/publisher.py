"""Records on their way to Kafka: written until acknowledged, and each message id once within the window.

Invariant: a publish returns only when the broker has the record as the topic's settings ask for. A record that was given up may still
be written later; the same id then finds it, and a reader drops what came twice. It must not know what a record says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from math import inf
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    TopicAuthorizationFailedError,
)

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka.records import Outgoing, Stored, position_at
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topics import BATCH_BYTES, HEADER_ROOM, Topics, forbidden
from stepmesh_broker.protocol.ids import Position

_log = logging.getLogger(__name__)
_LOOK_S = 0.5
"""A record that waits so long may miss its topic: that is looked after."""
_AGAIN_S = 0.05
_WORN = (OutOfOrderSequenceNumber, InvalidProducerEpoch, ProducerFenced, ProducerClosed)
"""The producer is of no use any more: the broker lost what it knew of it."""


class Publisher:
    """`lasting`: idempotent, tried again until the broker has it. Else a record that is not taken within `patience_s` is dropped."""

    def __init__(self, settings: KafkaSettings, topics: Topics, *, lasting: bool, patience_s: float) -> None:
        self._settings = settings
        self._topics = topics
        self._lasting = lasting
        self._patience_s = patience_s
        self._producer: Any = None
        self._renewing = asyncio.Lock()
        self._window: OrderedDict[tuple[str, str], tuple[asyncio.Task[Stored], float]] = OrderedDict()  # and when it ends
        self._sending: set[asyncio.Task[Stored]] = set()
        self._last = Position(0)
        self._open = False

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        self._producer = await self._made()
        self._open = True

    async def close(self) -> None:
        """Flush, then disconnect. Idempotent."""
        if not self._open:
            return
        self._open = False
        if self._sending:
            await asyncio.wait(self._sending, timeout=2)
        for sending in self._sending:
            sending.cancel()
        await self._stop(self._producer)

    async def publish(self, record: Outgoing, message_id: str = "") -> Stored:
        """Returns once the broker has it. Raises `BrokerUnavailable` after `patience_s`."""
        if not self._open:
            raise BrokerUnavailable("this connection is not open", hint="call connect() first, and nothing after close()")
        sending = self._known(record.topic, message_id) or self._begin(record, message_id)
        try:
            return await self._arrived(sending, record)
        except (KafkaError, TimeoutError, AssertionError, asyncio.CancelledError) as problem:
            if isinstance(problem, asyncio.CancelledError) and (not sending.cancelled() or _is_cancelled()):
                raise
            raise self._refused(record, problem) from problem

    async def _arrived(self, sending: asyncio.Task[Stored], record: Outgoing) -> Stored:
        until = asyncio.get_running_loop().time() + self._patience_s
        while not sending.done() and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait([sending], timeout=min(left, _LOOK_S))
            if not sending.done():
                await self._look_after(record.topic)
        if not sending.done():
            raise TimeoutError
        return sending.result()

    async def _look_after(self, topic: str) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._topics.ensure(topic, again=True)
        except (BrokerError, TimeoutError) as problem:
            _log.info("topic %s: %s", topic, problem)

    def _known(self, topic: str, message_id: str) -> asyncio.Task[Stored] | None:
        now = asyncio.get_running_loop().time()
        while self._window and next(iter(self._window.values()))[1] <= now:
            self._window.popitem(last=False)
        sending, until = self._window.get((topic, message_id), (None, 0.0))
        return sending if until > now else None

    def _begin(self, record: Outgoing, message_id: str) -> asyncio.Task[Stored]:
        sending = asyncio.get_running_loop().create_task(self._send(record))
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        if message_id:
            self._window[record.topic, message_id] = (sending, inf)
            sending.add_done_callback(lambda sent: self._date((record.topic, message_id), sent))
        return sending

    def _date(self, key: tuple[str, str], sent: asyncio.Task[Stored]) -> None:
        """The window begins when the broker has the record, however long that took. What failed is forgotten."""
        del self._window[key]
        if not sent.cancelled() and sent.exception() is None:
            self._window[key] = (sent, asyncio.get_running_loop().time() + self._settings.dedupe_window_s)

    def _sent(self, sending: asyncio.Task[Stored]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and sending.exception() is not None:
            _log.info("a record was not taken: %r", sending.exception())

    async def _send(self, record: Outgoing) -> Stored:
        producer = self._producer
        try:
            if record.partition not in await producer.partitions_for(record.topic):
                await self._learn(producer, record)
            where = await producer.send(record.topic, record.value, record.key, record.partition, headers=list(record.headers))
            said = await where
        except _WORN:
            await self._renew(producer)
            raise
        if said.offset < 0:
            raise KafkaError("the record was written before, nobody knows where")
        self._last = Position(max(position_at(said.timestamp or 0), self._last + 1))
        return Stored(said.offset, self._last)

    async def _learn(self, producer: Any, record: Outgoing) -> None:
        """What the cluster tells of a topic may be behind its growth. Raises `TimeoutError`."""
        async with asyncio.timeout(self._patience_s):
            while record.partition not in await producer.partitions_for(record.topic):
                await producer.client.force_metadata_update()
                await asyncio.sleep(_AGAIN_S)

    async def _renew(self, worn: Any) -> None:
        async with self._renewing:
            if self._producer is worn and self._open:
                _log.warning("the cluster does not know this producer any more; a new one is made")
                self._producer = await self._made()
                await self._stop(worn)

    async def _made(self) -> Any:
        options: dict[str, Any] = {**self._settings.client_options, "request_timeout_ms": round(self._patience_s * 1000)}
        producer = AIOKafkaProducer(
            **options,
            acks="all" if self._lasting else 1,
            enable_idempotence=self._lasting,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            max_request_size=max(self._settings.max_message_bytes, BATCH_BYTES) + HEADER_ROOM,
            retry_backoff_ms=50,
        )
        try:
            await producer.start()
        except BaseException:
            await self._stop(producer)
            raise
        return producer

    async def _stop(self, producer: Any) -> None:
        """What is not written within two seconds is given up."""
        try:
            await asyncio.wait_for(producer.stop(), 2)
        except (KafkaError, TimeoutError) as problem:
            _log.info("not flushed: %r", problem)
            await producer._sender.close()
            await producer.client.close()

    def _refused(self, record: Outgoing, problem: BaseException) -> BrokerError:
        if isinstance(problem, TopicAuthorizationFailedError):
            return forbidden(record.topic)
        if isinstance(problem, MessageSizeTooLargeError):
            return BrokerError(f"{record.topic}: {problem}", hint="raise max.message.bytes of the topic")
        hosts = ", ".join(self._settings.bootstrap)
        return BrokerUnavailable(f"{record.topic} took no message: {problem!r}", hint=f"is Kafka up at {hosts}?")


def _is_cancelled() -> bool:
    """Whether it is the caller that is to end, and not only the record."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
