"""Those who wait for a run to end, or to move. Woken after the turn's frame is durable."""

from __future__ import annotations

import asyncio

from stepmesh_broker.protocol.ids import RunId


class Waiters:
    """Futures by run id."""

    def __init__(self) -> None:
        self._waiting: dict[RunId, set[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self._waiting)

    async def wait(self, run: RunId, timeout_s: float) -> bool:
        """Until `wake(run)`; False after `timeout_s`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run, set()).add(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting.get(run)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[run]
        return True

    def wake(self, run: RunId) -> None:
        """The run moved, or ended."""
        for future in self._waiting.get(run, ()):
            if not future.done():
                future.set_result(None)
