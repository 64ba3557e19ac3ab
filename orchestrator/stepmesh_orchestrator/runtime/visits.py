"""Questions that are being answered, so that nobody waits for the answer of one who is gone.

Invariant: after `end` none is under way and none begins; each of them raises instead. It must not know what is asked, nor who answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from stepmesh_broker.errors import StepmeshError


class Visits:
    """To one who may go at any moment."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Timeout] = set()
        self._gone: Callable[[], StepmeshError] | None = None

    def check(self) -> None:
        """Raises what `end` was given, after it."""
        if self._gone is not None:
            raise self._gone()

    @asynccontextmanager
    async def visit(self) -> AsyncGenerator[None]:
        """Around an answer. Raises as `check`, at once also when `end` comes meanwhile."""
        self.check()
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._under_way.add(limit)
                try:
                    yield
                finally:
                    self._under_way.discard(limit)
        except TimeoutError:
            if limit.expired():
                self.check()
            raise

    def end(self, gone: Callable[[], StepmeshError]) -> None:
        """An answer that is there already is still given."""
        self._gone = gone
        now = asyncio.get_running_loop().time()
        while self._under_way:
            self._under_way.pop().reschedule(now)
