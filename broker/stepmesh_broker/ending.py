"""Tasks that have to end. One cancellation may be lost: `asyncio.wait_for` of Python 3.11 drops one that comes in the moment in which what
it waits for is done, and after a process stood still all that it waited for is done at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def cancelled(tasks: Iterable[asyncio.Task[Any]], again_s: float = 1.0) -> None:
    """Returns when all of them have ended, however they did. `again_s`: what each gets to clean up before it is cancelled once more."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)


async def ended(work: Coroutine[Any, Any, object], within_s: float) -> bool:
    """Whether `work` came to its end in time; else, or when the caller is, it is cancelled. Raises what it raised, but not that it was
    cancelled from within: the caller is not to end for that."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=within_s)
    except asyncio.CancelledError:
        await cancelled([task])
        raise
    if not done:
        await cancelled([task])
    if task.cancelled() or not done:
        return False
    task.result()
    return True
