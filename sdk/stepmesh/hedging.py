"""One question, asked again before it was answered: of several orchestrators that could answer, the one that got it may stand still.

Invariant: the first answer counts, and nothing is left behind. Only for questions that may be asked twice without harm. It must not know
what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stepmesh_broker.errors import BrokerUnavailable

AGAIN_S = (1.5, 3.0)
"""Seconds without an answer after which the question is asked once more, and then once more again."""


async def first_answer(ask: Callable[[], Awaitable[bytes]], pauses: tuple[float, ...] = AGAIN_S) -> bytes:
    """What one of the askings brings. Raises `BrokerUnavailable` as soon as none of those that were begun can bring anything."""
    if not pauses:
        return await ask()
    asking: set[asyncio.Future[bytes]] = set()
    try:
        for pause in (*pauses, None):
            asking.add(asyncio.ensure_future(ask()))
            answer = await _first(asking, pause)
            if answer is not None:
                return answer
        raise BrokerUnavailable("no answer in time")
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _first(asking: set[asyncio.Future[bytes]], timeout_s: float | None) -> bytes | None:
    """None when there is none within the time. Raises the last failure when nothing is left to wait for."""
    until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
    while asking:
        left = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        for one in done:
            if one.exception() is None:
                return one.result()
        asking.difference_update(done)
        if not asking:
            await next(iter(done))
    return None
