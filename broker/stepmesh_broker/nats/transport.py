"""`NatsBroker`: the Broker port over NATS JetStream (tasks, inboxes, dead letters) and core NATS (talk).

Invariant: names and sizes are checked here, before anything is sent. It must not know what the messages mean.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from stepmesh_broker.errors import BrokerError, MessageTooLarge
from stepmesh_broker.nats.connection import Connection
from stepmesh_broker.nats.inbox import KEY_HEADER, NatsInbox, NatsTopicReader
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.streams import as_broker_error
from stepmesh_broker.nats.subscription import NatsListener, NatsServer
from stepmesh_broker.nats.tasks import NatsTaskSource
from stepmesh_broker.nats.wire import published
from stepmesh_broker.ports import START, Handler, Parked, PoolDepth, Promises, Responder, Subscription
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_broker.protocol.subjects import Subject

HEADER_ROOM = 16 * 1024
"""Bytes of the server's `max_payload` kept free for headers, which it counts in."""
_MAX_REASON = 1000
_NO_MESSAGE = (10043, 10057)  # "sequence … not found" of a deleted one, "no message found" of one that never was
_REASON = "Stepmesh-Reason"
_SOURCE = "Stepmesh-Source"
_ORDERS = "nats-"
"""How headers begin that tell the server what to do with a message, in lower case."""


class NatsBroker:
    """`Broker` for the namespace of its settings."""

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._wire = self._connection.wire
        self._streams = self._connection.streams
        self._parts: WeakSet[Subscription] = WeakSet()
        self._agreed = False

    @property
    def max_message_bytes(self) -> int:
        """The smaller of the setting and what the server takes (known once connected)."""
        server = self._wire.max_payload - HEADER_ROOM
        return server if self._settings.max_message_bytes is None else min(server, self._settings.max_message_bytes)

    @property
    def promises(self) -> Promises:
        """All of them."""
        return Promises()

    async def connect(self) -> None:
        """Connect; from then on this reconnects for ever, with pauses from 20 ms to 2 s."""
        await self._connection.connect()

    async def close(self) -> None:
        """Flush, then disconnect."""
        for part in list(self._parts):
            await part.close()
        await self._connection.close()

    async def incarnation(self) -> str:
        """When the task stream was made. Whoever asks runs the namespace, so the first time, streams get the wanted settings."""
        stream = await self._connection.steady(lambda: self._streams.ensure(self._streams.tasks))
        if not self._agreed:
            await self._connection.steady(self._streams.agree)
            self._agreed = True
        return str(stream.created)

    async def define(self) -> list[dict[str, Any]]:
        """Make the streams that are missing, give the others the wanted settings; returns how the server has them now."""
        return await self._connection.steady(self._streams.define)

    async def definitions(self) -> list[dict[str, Any]]:
        """The wanted settings of the streams where this connection leads to, and under `found` those that are there, or None."""
        return await self._connection.steady(self._streams.definitions)

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Add a frame to a pool."""
        self._check(data)
        return await self._connection.publish(self._streams.tasks, self._streams.task_subject(pool), data, _id_header(message_id))

    async def tasks(self, pool: Pool) -> NatsTaskSource:
        """Join the pool's consumer group."""
        connection = self._connection
        await connection.steady(lambda: connection.join_pool(pool))
        source = NatsTaskSource(self._wire, self._streams.tasks, pool, lambda: connection.join_pool(pool), lambda: connection.life)
        connection.followers.add(source)
        self._parts.add(source)
        return source

    async def depth(self, pool: Pool) -> PoolDepth:
        """From the pool's consumer; from the stream while nobody joined the pool."""
        return await self._connection.steady(lambda: self._depth(pool))

    async def _depth(self, pool: Pool) -> PoolDepth:
        subject = self._streams.task_subject(pool)
        consumer = await self._streams.pool_consumer(pool)
        if consumer is not None and consumer.ack_floor is not None:
            return PoolDepth(consumer.num_pending or 0, consumer.num_ack_pending or 0, Position(consumer.ack_floor.stream_seq))
        stream = await self._streams.find(self._streams.tasks, subject)
        waiting = (stream.state.subjects or {}) if stream else {}
        return PoolDepth(waiting.get(subject, 0), 0, Position(0))

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        """Add to a partition's inbox; durable as the server's file store and `sync_interval` make it."""
        self._check(data)
        return await self._connection.publish(self._streams.inbox, self._streams.inbox_subject(partition), data, _id_header(message_id))

    async def inbox(self, partition: Partition, after: Position) -> NatsInbox:
        """Read a partition's inbox."""
        inbox = NatsInbox(self._wire, self._streams, partition, after)
        await self._connection.steady(inbox.open)
        self._connection.followers.add(inbox)
        self._parts.add(inbox)
        return inbox

    async def records(self, topic: Topic, partition: Partition, partitions: int) -> NatsTopicReader | None:
        """All of it is the share of partition 0."""
        if partition:
            return None
        reader = NatsTopicReader(self._wire, self._streams, topic)
        await self._connection.steady(reader.open)
        self._connection.followers.add(reader)
        self._parts.add(reader)
        return reader

    async def write(self, topic: Topic, record: PlainRecord) -> None:
        """Into the only lane. Its key is a header, which a record of NATS has among its own."""
        self._check(record.value)
        headers = {**({KEY_HEADER: record.key} if record.key else {}), **record.headers}
        lines = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in headers.items() if not name.startswith(_ORDERS))
        await self._connection.publish(self._streams.plain[topic], self._streams.plain_subject(topic), record.value, lines)

    async def park(self, pool: Pool, data: bytes, reason: str, source: bytes = b"") -> Position:
        """Put a message into the dead-letter stream; of the reason, the first 1,000 characters are kept."""
        self._check(data)
        headers = f"{_REASON}: {json.dumps(reason[:_MAX_REASON])}\r\n".encode()
        if source:
            headers += b"%b: %b\r\n" % (_SOURCE.encode(), b64encode(source))
        return await self._connection.publish(self._streams.dead, self._streams.dead_subject(pool), data, headers)

    async def parked(self, limit: int = 1000, after: Position = START) -> Sequence[Parked]:
        """Oldest first, one look-up per message."""
        return await self._connection.steady(lambda: self._parked(limit, after))

    async def _parked(self, limit: int, after: Position) -> Sequence[Parked]:
        found: list[Parked] = []
        while len(found) < limit and (one := await self._parked_after(found[-1].position if found else after)):
            found.append(one)
        return found

    async def drop_parked(self, position: Position) -> bool:
        """Remove one."""
        self._connection.check()
        if position < 1:
            return False
        try:
            return await self._streams.js.delete_msg(self._streams.dead, position)
        except (TimeoutError, NatsError) as problem:
            if isinstance(problem, NotFoundError) or (isinstance(problem, APIError) and problem.err_code in _NO_MESSAGE):
                return False
            raise as_broker_error(problem, f"dead letter {position}") from problem

    async def send(self, subject: Subject, data: bytes) -> None:
        """Tell whoever listens now. Raises `BrokerUnavailable` while there is no connection."""
        self._check(data)
        self._connection.check()
        self._wire.put(published(_safe(subject), data))
        await self._wire.room()

    async def listen(self, subject: Subject, handler: Handler) -> NatsListener:
        """Hear all that is sent to `subject` from now on; again after a reconnect."""
        self._connection.check()
        listener = NatsListener(self._wire, _safe(subject), handler)
        await self._begin(listener, subject)
        return listener

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask; the first answer counts."""
        self._check(data)
        return await self._connection.request(_safe(subject), data, timeout_s)

    async def serve(self, subject: Subject, responder: Responder, group: str = "") -> NatsServer:
        """Answer requests."""
        self._connection.check()
        server = NatsServer(self._wire, _safe(subject), responder, group, self.max_message_bytes)
        await self._begin(server, subject)
        return server

    async def _begin(self, part: Subscription, subject: Subject) -> None:
        """Returns when the server knows of the subscription. One that nobody gets, because its caller was cancelled, must not stay."""
        self._parts.add(part)
        try:
            await self._connection.settle()
            self._wire.require_heard(subject)
        except BaseException:
            await part.close()
            raise

    async def _parked_after(self, position: Position) -> Parked | None:
        try:
            message = await self._streams.js.get_msg(
                self._streams.dead, seq=position + 1, subject=self._streams.dead_subject_all, next=True
            )
        except NotFoundError:
            return None
        except (TimeoutError, NatsError) as problem:
            raise as_broker_error(problem, "dead letters") from problem
        headers = message.headers or {}
        reason, source = json.loads(headers.get(_REASON, '""')), b64decode(headers.get(_SOURCE, ""))
        return Parked(Position(message.seq or 0), Pool((message.subject or "").rpartition(".")[2]), message.data or b"", reason, source)

    def _check(self, data: bytes) -> None:
        if len(data) > self.max_message_bytes:
            raise MessageTooLarge.of(len(data), self.max_message_bytes)


def _id_header(message_id: str) -> bytes:
    if not message_id:
        return b""
    if not message_id.isprintable():
        raise BrokerError(f"message id {message_id!r} is not printable", code="SM-3004", hint="use letters, digits and punctuation")
    return b"Nats-Msg-Id: %b\r\n" % message_id.encode()


def _safe(subject: Subject) -> str:
    if not subject.isprintable() or " " in subject or not subject:
        raise BrokerError(f"{subject!r} is not a subject", code="SM-3004", hint="use the functions of stepmesh_broker.protocol.subjects")
    return subject
