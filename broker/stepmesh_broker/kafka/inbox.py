"""A partition's inbox: one partition of the inbox topic, read from where the journal stands.

Invariant: messages are handed out in order of position, and positions are offsets counted from the birth of the namespace's data. Each
reader writes a mark when it begins; who reads the mark of a newer reader has lost the partition. It must not know what messages mean.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence

from aiokafka import TopicPartition

from stepmesh_broker.ending import cancelled, ended
from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.kafka.copies import Copies
from stepmesh_broker.kafka.life import Life
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.reader import LogReader, Records
from stepmesh_broker.kafka.records import Key, Outgoing, headers_of, text
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.ports import InboxEntry
from stepmesh_broker.protocol.ids import Partition, Position

_log = logging.getLogger(__name__)
READ_AHEAD = 2_000
READ_AHEAD_BYTES = 32 << 20
"""What may wait for a reader, in messages and in bytes; with more, nothing is taken from the broker."""
TRIM_EVERY_S = 15.0
_TRIM_PATIENCE_S = 1.0
CLOSE_S = 2.0
"""What closing may take: what was not trimmed by then, the next reader trims."""
_MARK = "mark"
_PROBE = "probe"
"""Says nothing to others: a reader that lost its partition, and does not know yet, may write one."""


class KafkaInbox:
    """`Inbox` over a partition that is assigned by hand."""

    def __init__(
        self, topics: Topics, publisher: Publisher, reader: LogReader, partition: Partition, after: Position, window_s: float
    ) -> None:
        self.partition = partition
        self._topics = topics
        self._publisher = publisher
        self._reader = reader
        self._place = TopicPartition(topics.inbox, partition)
        self._id = secrets.token_hex(8)
        self._acked = after
        self._trimmed = Position(0)
        self._base = 0
        self._mark = 0
        self._probes: dict[int, asyncio.Future[None]] = {}
        self._unread: deque[InboxEntry] = deque()
        self._unread_bytes = 0
        self._copies = Copies(window_s * 1000)
        self._news = asyncio.Event()
        self._trimming: asyncio.Task[None] | None = None
        self._trim_due = asyncio.get_running_loop().time() + TRIM_EVERY_S
        self._taken = self._closed = False

    async def open(self, life: Life) -> None:
        """Begin after the last acknowledged message, or at the oldest one in a life that begins later."""
        mark = await self._write_mark(_MARK)
        self._base, self._mark = life.born, mark  # not before: until now, what arrives is counted from the birth of the life before
        self._drop_unread()
        self._copies.forget()
        start = min(max(self._acked - self._base, 0), self._mark)
        self._reader.read(self._place, start, self._arrived)

    @property
    def is_over(self) -> bool:
        """Closed, or another's."""
        return self._closed or self._taken

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[InboxEntry]:
        """Up to `max_messages` as soon as there is one. Raises `InboxTaken`, or `BrokerUnavailable` once closed."""
        self._check()
        if not self._unread:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), timeout_s)
            except TimeoutError:
                return ()
            if self._taken:
                self._check()
        page = [self._unread.popleft() for _ in range(min(max_messages, len(self._unread)))]
        self._unread_bytes -= sum(len(entry.data) for entry in page)
        if len(self._unread) < READ_AHEAD // 2 and self._unread_bytes < READ_AHEAD_BYTES // 2:
            self._reader.resume(self._place)
        return page

    async def ack(self, position: Position) -> None:
        """Everything up to and with `position` may go; it goes now and then, and when this reader closes."""
        self._acked = max(self._acked, position)
        now = asyncio.get_running_loop().time()
        if now >= self._trim_due and self._trimming is None and not self._closed:
            self._trim_due = now + TRIM_EVERY_S
            self._trimming = asyncio.get_running_loop().create_task(self._trim())

    async def close(self) -> None:
        """Stop reading. A waiting `fetch` returns empty."""
        if self._closed:
            return
        self._closed = True
        self._drop_unread()
        self._news.set()
        try:
            if not await ended(self._trim_last(), CLOSE_S):
                _log.info("the inbox of partition %d is trimmed by its next reader: the cluster does not answer", self.partition)
        finally:
            self._reader.leave(self._place, self._arrived)

    def lose(self) -> None:
        """Another reader took over."""
        self._taken = True
        self._news.set()
        for waiting in self._probes.values():
            if not waiting.done():
                waiting.set_result(None)

    def _arrived(self, records: Records) -> None:
        for record in records:
            headers = dict(record.headers)
            if Key.KIND in headers:
                self._marked(record.offset, text(headers, Key.SENDER), text(headers, Key.KIND))
            elif not self._copies.is_copy(text(headers, Key.MESSAGE_ID), record.timestamp):
                self._unread.append(InboxEntry(Position(self._base + record.offset + 1), record.value or b""))
                self._unread_bytes += len(record.value or b"")
        if self._closed:
            self._drop_unread()
        elif self._unread:
            self._news.set()
        if len(self._unread) > READ_AHEAD or self._unread_bytes > READ_AHEAD_BYTES:
            self._reader.pause(self._place)

    def _drop_unread(self) -> None:
        self._unread.clear()
        self._unread_bytes = 0

    def _marked(self, offset: int, sender: str, kind: str) -> None:
        if kind == _MARK and sender != self._id and offset > self._mark:
            self._reader.leave(self._place, self._arrived)
            self.lose()
        waiting = self._probes.get(offset)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _write_mark(self, kind: str) -> int:
        headers = headers_of(kind=kind, sender=self._id)
        return (await self._publisher.publish(Outgoing(self._place.topic, self.partition, b"", headers))).offset

    async def _trim_last(self) -> None:
        if self._trimming is not None:
            await cancelled([self._trimming])
        await self._trim()

    async def _trim(self) -> None:
        """A probe is written and read first: who reads its own before the mark of a newer reader still has the partition."""
        upto = self._acked
        if self._taken or upto <= max(self._trimmed, self._base):
            return
        try:
            offset = await self._write_mark(_PROBE)
            seen = self._probes[offset] = asyncio.get_running_loop().create_future()
            try:
                if offset >= self._reader.offset(self._place):
                    await asyncio.wait_for(seen, _TRIM_PATIENCE_S)
            finally:
                del self._probes[offset]
            if not self._taken:
                await self._topics.trim(self._place, upto - self._base)
                self._trimmed = upto
        except (BrokerUnavailable, TimeoutError) as problem:
            _log.info("the inbox of partition %d is trimmed later: %r", self.partition, problem)
        finally:
            self._trimming = None

    def _check(self) -> None:
        if self._taken:
            raise InboxTaken.of(self.partition)
        if self._closed:
            raise BrokerUnavailable("this inbox is closed")
