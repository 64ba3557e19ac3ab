"""Those who wait for a run to end, or to move. Woken after the turn's frame is durable.

Who looks, finds nothing and then waits must begin to listen before the look, or what happens between the two is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from stepmesh_broker.protocol.ids import RunId


class Waiters:
    """Events by run id."""

    def __init__(self) -> None:
        self._waiting: dict[RunId, set[asyncio.Event]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self._waiting)

    @contextmanager
    def listen(self, run: RunId) -> Generator[asyncio.Event, None, None]:
        """Set by every `wake(run)` from now on."""
        news = asyncio.Event()
        self._waiting.setdefault(run, set()).add(news)
        try:
            yield news
        finally:
            waiting = self._waiting[run]
            waiting.discard(news)
            if not waiting:
                del self._waiting[run]

    async def wait(self, run: RunId, timeout_s: float) -> bool:
        """Until `wake(run)`; False after `timeout_s`."""
        with self.listen(run) as news:
            return await heard(news, timeout_s)

    def wake(self, run: RunId) -> None:
        """The run moved, or ended."""
        for news in self._waiting.get(run, ()):
            news.set()


async def heard(news: asyncio.Event, timeout_s: float) -> bool:
    """Until the event is set; False after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):  # no task between the waker and the woken: nothing else gets in first
            await news.wait()
    except TimeoutError:
        return False
    return True
