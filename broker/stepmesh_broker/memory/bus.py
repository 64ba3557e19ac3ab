"""What the connections of one in-process broker share: queues, inboxes, dead letters, listeners.

Invariant: everything durable is kept per namespace; `wipe` loses all of it and starts a new life. It must not know
which connection asks.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count

from stepmesh_broker.listening import Listener, matches
from stepmesh_broker.memory.clock import Clock, LoopClock
from stepmesh_broker.memory.dedupe import DedupeWindow
from stepmesh_broker.memory.inbox import InboxLog
from stepmesh_broker.memory.plain_topic import TopicLog
from stepmesh_broker.memory.talk import Server
from stepmesh_broker.memory.tasks import TaskQueue
from stepmesh_broker.ports import InboxEntry, Parked
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic


class MemoryBus:
    """An in-process broker.

    `ack_wait_s` and `dedupe_window_s` in seconds, `max_message_bytes` in bytes; `clock` moves all of its time.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        ack_wait_s: float = 6.0,
        dedupe_window_s: float = 120.0,
        max_message_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        self.clock: Clock = clock or LoopClock()
        self.ack_wait_s = ack_wait_s
        self.dedupe_window_s = dedupe_window_s
        self.max_message_bytes = max_message_bytes
        self._namespaces: dict[Namespace, Streams] = {}
        self._listeners: list[Listener] = []
        self._servers: list[Server] = []

    def streams(self, namespace: Namespace) -> Streams:
        """What is kept for a namespace; made on first use."""
        known = self._namespaces.get(namespace)
        if known is None:
            known = self._namespaces[namespace] = Streams(self)
        return known

    def wipe(self) -> None:
        """Lose all that is kept, as a broker whose disk was cleared. Listeners and consumers stay."""
        for streams in self._namespaces.values():
            streams.wipe()

    def add_listener(self, listener: Listener) -> None:
        """Start to hear."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop hearing."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def add_server(self, server: Server) -> None:
        """Start to answer."""
        self._servers.append(server)

    def remove_server(self, server: Server) -> None:
        """Stop answering."""
        if server in self._servers:
            self._servers.remove(server)

    def tell(self, subject: str, data: bytes) -> None:
        """To every listener."""
        for listener in self._listeners:
            if matches(listener.subject, subject):
                listener.hear(data)

    def servers_for(self, subject: str) -> list[Server]:
        """Who is asked: one of each group, and every server without one."""
        heard = [server for server in self._servers if matches(server.subject, subject)]
        alone = [server for server in heard if not server.group]
        groups: dict[str, list[Server]] = {}
        for server in heard:
            if server.group:
                groups.setdefault(server.group, []).append(server)
        return alone + [random.choice(members) for members in groups.values()]


class Streams:
    """The durable things of one namespace."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._life = 1
        self._task_positions = count(1)
        self._inbox_positions = count(time.time_ns() // 1_000)  # above those of an earlier process, which a journal may remember
        self._parked_positions = count(1)
        self._pools: dict[Pool, TaskQueue] = {}
        self._inboxes: dict[Partition, InboxLog] = {}
        self._task_ids = DedupeWindow(bus.clock, bus.dedupe_window_s)
        self._inbox_ids = DedupeWindow(bus.clock, bus.dedupe_window_s)
        self.parked: OrderedDict[Position, Parked] = OrderedDict()
        self.plain = {topic: TopicLog(topic, bus.clock) for topic in Topic}

    @property
    def incarnation(self) -> str:
        """Changes when everything is lost."""
        return f"memory-{self._life}"

    def pool(self, pool: Pool) -> TaskQueue:
        """A pool's queue; made on first use."""
        known = self._pools.get(pool)
        if known is None:
            known = self._pools[pool] = TaskQueue(self._bus.clock, self._bus.ack_wait_s)
        return known

    def inbox(self, partition: Partition) -> InboxLog:
        """A partition's inbox; made on first use."""
        known = self._inboxes.get(partition)
        if known is None:
            known = self._inboxes[partition] = InboxLog(self._bus.clock, partition)
        return known

    def write(self, topic: Topic, value: bytes, key: str = "", headers: Mapping[str, str] | None = None) -> PlainRecord:
        """A plain record, as another program's producer would write it. `headers`: names in lower case."""
        given = {name: text.encode() for name, text in (headers or {}).items()}
        return self.plain[topic].write(value, key.encode(), given, time.time_ns() // 1_000_000)

    def put_task(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Add a frame, or find where the same id was added."""
        known = self._task_ids.first(message_id)
        if known is not None:
            return known
        position = Position(next(self._task_positions))
        self._task_ids.remember(message_id, position)
        self.pool(pool).put(position, data)
        return position

    def post(self, partition: Partition, data: bytes, message_id: str) -> Position:
        """Add to an inbox, or find where the same id was added."""
        known = self._inbox_ids.first(message_id)
        if known is not None:
            return known
        position = Position(next(self._inbox_positions))
        self._inbox_ids.remember(message_id, position)
        self.inbox(partition).put(InboxEntry(position, data))
        return position

    def park(self, pool: Pool, data: bytes, reason: str, source: bytes) -> Position:
        """Add a dead letter."""
        position = Position(next(self._parked_positions))
        self.parked[position] = Parked(position, pool, data, reason, source)
        return position

    def wipe(self) -> None:
        """Begin a new life. Inbox positions go on growing: a journal remembers how far it read."""
        self._life += 1
        self._task_positions = count(1)
        self._task_ids.clear()
        self._inbox_ids.clear()
        self.parked.clear()
        for log in self.plain.values():
            log.clear()
        for queue in self._pools.values():
            queue.clear()
        for inbox in self._inboxes.values():
            inbox.clear()
