"""`MemoryBroker`: one connection to a `MemoryBus`.

Invariant: it keeps no message; closing it stops its sources, inboxes and subscriptions, and what they held comes again.
It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import islice
from weakref import WeakSet

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.listening import Listener
from stepmesh_broker.memory.bus import MemoryBus, Streams
from stepmesh_broker.memory.clock import wait
from stepmesh_broker.memory.inbox import MemoryInbox
from stepmesh_broker.memory.plain_topic import MemoryTopicReader
from stepmesh_broker.memory.talk import Server
from stepmesh_broker.memory.tasks import MemoryTaskSource
from stepmesh_broker.ports import START, Handler, Parked, PoolDepth, Promises, Responder, Subscription
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_broker.protocol.subjects import Subject, checked_name


class MemoryBroker:
    """`Broker` over a bus that other connections of this process may share."""

    def __init__(self, bus: MemoryBus, namespace: Namespace) -> None:
        self._bus = bus
        self._namespace = Namespace(checked_name("namespace", namespace))
        self._open = False
        self._mine: WeakSet[Subscription] = WeakSet()

    @property
    def max_message_bytes(self) -> int:
        """As the bus was told."""
        return self._bus.max_message_bytes

    @property
    def promises(self) -> Promises:
        """All of them."""
        return Promises()

    async def connect(self) -> None:
        """Open for use."""
        self._open = True

    async def close(self) -> None:
        """End everything that this connection opened."""
        self._open = False
        for part in list(self._mine):
            await part.close()

    async def incarnation(self) -> str:
        """The life of this namespace on the bus."""
        return self._streams().incarnation

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Add a frame to a pool."""
        return self._streams(data).put_task(_pool(pool), data, message_id)

    async def tasks(self, pool: Pool) -> MemoryTaskSource:
        """Join the pool's consumer group."""
        source = MemoryTaskSource(self._streams().pool(_pool(pool)), self._bus.clock)
        self._mine.add(source)
        return source

    async def depth(self, pool: Pool) -> PoolDepth:
        """How much waits."""
        return self._streams().pool(_pool(pool)).depth()

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        """Add to a partition's inbox; durable as long as this process lives."""
        return self._streams(data).post(partition, data, message_id)

    async def inbox(self, partition: Partition, after: Position) -> MemoryInbox:
        """Read a partition's inbox."""
        inbox = self._streams().inbox(partition).open(after)
        self._mine.add(inbox)
        return inbox

    async def records(self, topic: Topic, partition: Partition, partitions: int) -> MemoryTopicReader | None:
        """All of it is the share of partition 0."""
        streams = self._streams()
        if partition:
            return None
        reader = streams.plain[topic].open()
        self._mine.add(reader)
        return reader

    async def write(self, topic: Topic, record: PlainRecord) -> None:
        """Into the only lane."""
        self._streams(record.value).plain[topic].write(record.value, record.key, record.headers, time.time_ns() // 1_000_000)

    async def park(self, pool: Pool, data: bytes, reason: str, source: bytes = b"") -> Position:
        """Put a message into the dead-letter topic."""
        return self._streams(data).park(_pool(pool), data, reason, source)

    async def parked(self, limit: int = 1000, after: Position = START) -> Sequence[Parked]:
        """Oldest first."""
        return list(islice((letter for letter in self._streams().parked.values() if letter.position > after), limit))

    async def drop_parked(self, position: Position) -> bool:
        """Remove one."""
        return self._streams().parked.pop(position, None) is not None

    async def send(self, subject: Subject, data: bytes) -> None:
        """Tell whoever listens now."""
        self._check(data)
        self._bus.tell(subject, data)

    async def listen(self, subject: Subject, handler: Handler) -> Listener:
        """Hear all that is sent to `subject`."""
        self._check()
        listener = Listener(subject, handler, self._bus.remove_listener)
        self._bus.add_listener(listener)
        self._mine.add(listener)
        return listener

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask; the first answer counts."""
        self._check(data)
        servers = self._bus.servers_for(subject)
        if not servers:
            raise BrokerUnavailable(f"nobody serves {subject}")
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        for server in servers:
            server.ask(data, answer)
        reply = await wait(self._bus.clock, answer, timeout_s, None)
        if reply is None:
            raise BrokerUnavailable(f"no answer on {subject} within {timeout_s:g} s")
        return reply

    async def serve(self, subject: Subject, responder: Responder, group: str = "") -> Server:
        """Answer requests."""
        self._check()
        server = Server(subject, responder, group, self.max_message_bytes, self._bus.remove_server)
        self._bus.add_server(server)
        self._mine.add(server)
        return server

    def _streams(self, data: bytes = b"") -> Streams:
        self._check(data)
        return self._bus.streams(self._namespace)

    def _check(self, data: bytes = b"") -> None:
        if not self._open:
            raise BrokerUnavailable("this connection is not open", hint="call connect() first, and nothing after close()")
        if len(data) > self.max_message_bytes:
            raise MessageTooLarge.of(len(data), self.max_message_bytes)


def _pool(name: Pool) -> Pool:
    return Pool(checked_name("pool", name))
