"""A partition's inbox: an ordered log with one reader at a time. It must not know what a message carries."""

from __future__ import annotations

from functools import partial

from stepmesh_broker.errors import InboxTaken
from stepmesh_broker.memory.clock import Clock
from stepmesh_broker.memory.share import ShareLog, ShareReader
from stepmesh_broker.ports import InboxEntry
from stepmesh_broker.protocol.ids import Partition, Position


class InboxLog(ShareLog[InboxEntry]):
    """Unacknowledged messages of one partition."""

    def __init__(self, clock: Clock, partition: Partition) -> None:
        super().__init__()
        self._clock = clock
        self._partition = partition

    def open(self, after: Position) -> MemoryInbox:
        """A new reader; the present one, if any, is told that it lost the partition."""
        self.drop(after)
        return MemoryInbox(self, self._clock, partial(InboxTaken.of, self._partition))


class MemoryInbox(ShareReader[InboxEntry]):
    """`Inbox` over an `InboxLog`."""

    async def ack(self, position: Position) -> None:
        """Remove everything up to and with `position`; nothing when this reader lost the partition."""
        self._drop(position)
