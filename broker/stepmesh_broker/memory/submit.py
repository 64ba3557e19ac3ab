"""The submit topic of one namespace in memory: a log with one lane and one reader at a time.

Invariant: a record stays until it is acknowledged. It must not know what it says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count, islice

from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.memory.clock import Clock, wait
from stepmesh_broker.protocol.submission import SubmittedRecord


class SubmitLog:
    """Records that nobody acknowledged yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._positions = count(1)
        self._records: deque[SubmittedRecord] = deque()
        self._reader: MemorySubmitReader | None = None

    def write(self, value: bytes, key: bytes, headers: Mapping[str, bytes], time_ms: int) -> SubmittedRecord:
        """What a producer does."""
        record = SubmittedRecord(0, next(self._positions), time_ms, value, key, headers)
        self._records.append(record)
        if self._reader is not None:
            self._reader.hear(record)
        return record

    def open(self) -> MemorySubmitReader:
        """A new reader; the present one, if any, is told that it is over."""
        if self._reader is not None:
            self._reader.lose()
        self._reader = MemorySubmitReader(self, self._clock, self._records)
        return self._reader

    def drop(self, upto: int) -> None:
        """Remove everything at or below a position."""
        while self._records and self._records[0].position <= upto:
            self._records.popleft()

    def leave(self, reader: MemorySubmitReader) -> None:
        """The reader stops."""
        if self._reader is reader:
            self._reader = None

    def clear(self) -> None:
        """Lose every record."""
        self._records.clear()


class MemorySubmitReader:
    """`SubmitReader` over a `SubmitLog`."""

    def __init__(self, log: SubmitLog, clock: Clock, records: Sequence[SubmittedRecord]) -> None:
        self._log = log
        self._clock = clock
        self._unread: deque[SubmittedRecord] = deque(records)
        self._more: asyncio.Future[None] | None = None
        self._lost = self._closed = False

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[SubmittedRecord]:
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

    async def ack(self, records: Sequence[SubmittedRecord]) -> None:
        """Remove them and all before; nothing when this reader is over."""
        if records and not self._lost:
            self._log.drop(max(record.position for record in records))

    async def close(self) -> None:
        """Stop reading; a waiting `fetch` returns empty."""
        self._closed = True
        self._unread.clear()
        self._wake()
        self._log.leave(self)

    def hear(self, record: SubmittedRecord) -> None:
        """A record was written."""
        self._unread.append(record)
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
            raise InboxTaken.of_submissions()
        if self._closed:
            raise BrokerUnavailable("this reader is closed")
