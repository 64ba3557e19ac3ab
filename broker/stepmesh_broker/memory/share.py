"""A log with one reader at a time: what a partition's inbox and a topic of plain records are made of.

Invariant: an entry leaves only by an acknowledgement of its position or a later one. It must not know what entries carry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.memory.clock import Clock, wait


class Placed(Protocol):
    """What has a place in a log; positions grow."""

    @property
    def position(self) -> int: ...


E = TypeVar("E", bound=Placed)


class ShareLog(Generic[E]):
    """Entries that nobody acknowledged yet, in order of position."""

    def __init__(self) -> None:
        self._entries: deque[E] = deque()
        self._reader: ShareReader[E] | None = None

    def put(self, entry: E) -> None:
        """Add it behind the others."""
        self._entries.append(entry)
        if self._reader is not None:
            self._reader.hear(entry)

    def take(self, reader: ShareReader[E]) -> None:
        """From now on this one reads, from the oldest entry on; the present one, if any, is told that it is over."""
        if self._reader is not None:
            self._reader.lose()
        self._reader = reader
        for entry in self._entries:
            reader.hear(entry)

    def drop(self, upto: int) -> None:
        """Remove everything at or below a position."""
        while self._entries and self._entries[0].position <= upto:
            self._entries.popleft()

    def leave(self, reader: ShareReader[E]) -> None:
        """The reader stops."""
        if self._reader is reader:
            self._reader = None

    def clear(self) -> None:
        """Lose everything."""
        self._entries.clear()


class ShareReader(Generic[E]):
    """Reads a log, until another one does. `taken` makes the error that says so."""

    def __init__(self, log: ShareLog[E], clock: Clock, taken: Callable[[], InboxTaken]) -> None:
        self._log = log
        self._clock = clock
        self._taken = taken
        self._unread: deque[E] = deque()
        self._more: asyncio.Future[None] | None = None
        self._lost = self._closed = False
        log.take(self)

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[E]:
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

    async def close(self) -> None:
        """Stop reading; a waiting `fetch` returns empty."""
        self._closed = True
        self._unread.clear()
        self._wake()
        self._log.leave(self)

    def hear(self, entry: E) -> None:
        """There is one more."""
        self._unread.append(entry)
        self._wake()

    def lose(self) -> None:
        """Another reader took over."""
        self._lost = True
        self._wake()

    def _drop(self, upto: int) -> None:
        """Nothing when this reader is over."""
        if not self._lost:
            self._log.drop(upto)

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _check(self) -> None:
        if self._lost:
            raise self._taken()
        if self._closed:
            raise BrokerUnavailable("this reader is closed")
