"""A partition's inbox: an ordered log with one reader at a time.

Invariant: a message leaves only by an acknowledgement of its position or a later one. It must not know what it carries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice

from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.memory.clock import Clock, wait
from stepmesh_broker.ports import InboxEntry
from stepmesh_broker.protocol.ids import Partition, Position


class InboxLog:
    """Unacknowledged messages of one partition, in order of position."""

    def __init__(self, clock: Clock, partition: Partition) -> None:
        self._clock = clock
        self._partition = partition
        self._entries: deque[InboxEntry] = deque()
        self._reader: MemoryInbox | None = None

    def put(self, entry: InboxEntry) -> None:
        """Add a message; positions grow."""
        self._entries.append(entry)
        if self._reader is not None:
            self._reader.hear(entry)

    def open(self, after: Position) -> MemoryInbox:
        """A new reader; the present one, if any, is told that it lost the partition."""
        self.drop(after)
        if self._reader is not None:
            self._reader.lose()
        self._reader = MemoryInbox(self, self._clock, self._partition, self._entries)
        return self._reader

    def drop(self, upto: Position) -> None:
        """Remove everything at or below a position."""
        while self._entries and self._entries[0].position <= upto:
            self._entries.popleft()

    def leave(self, reader: MemoryInbox) -> None:
        """The reader stops."""
        if self._reader is reader:
            self._reader = None

    def clear(self) -> None:
        """Lose every message."""
        self._entries.clear()


class MemoryInbox:
    """`Inbox` over an `InboxLog`."""

    def __init__(self, log: InboxLog, clock: Clock, partition: Partition, entries: Sequence[InboxEntry]) -> None:
        self._log = log
        self._clock = clock
        self._partition = partition
        self._unread: deque[InboxEntry] = deque(entries)
        self._more: asyncio.Future[None] | None = None
        self._lost = self._closed = False

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[InboxEntry]:
        """Up to `max_messages` as soon as there is one. Raises `InboxTaken`, or `BrokerUnavailable` once closed."""
        self._check()
        if not self._unread:
            self._more = asyncio.get_running_loop().create_future()
            await wait(self._clock, self._more, timeout_s, None)
            if self._lost:
                self._check()
        page = list(islice(self._unread, max_messages))
        for _ in page:
            self._unread.popleft()
        return page

    async def ack(self, position: Position) -> None:
        """Remove everything up to and with `position`; nothing when this reader lost the partition."""
        if not self._lost:
            self._log.drop(position)

    async def close(self) -> None:
        """Stop reading; a waiting `fetch` returns empty."""
        self._closed = True
        self._unread.clear()
        self._wake()
        self._log.leave(self)

    def hear(self, entry: InboxEntry) -> None:
        """A message arrived."""
        self._unread.append(entry)
        self._wake()

    def lose(self) -> None:
        """Another reader took over."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _check(self) -> None:
        if self._lost:
            raise InboxTaken.of(self._partition)
        if self._closed:
            raise BrokerUnavailable("this inbox is closed")
