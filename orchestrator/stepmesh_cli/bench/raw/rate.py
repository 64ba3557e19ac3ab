"""A broker's own rate, measured by two processes that share the machine as orchestrator and worker do.

What is counted: a message there and a message back, both produced, made durable and consumed, because that is what one step of a chain asks
of a broker. Invariant: both processes are plain clients of the library; what they made on the server is removed. It must not know the
scenario.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import uvloop

from stepmesh.serving import GC_THRESHOLDS
from stepmesh_cli.addresses import shown
from stepmesh_cli.bench.raw.exchange import Exchange, answer, begin
from stepmesh_cli.bench.raw.place import Client, Place, Role
from stepmesh_cli.errors import CommandError

T = TypeVar("T")
LIMIT_S = 120.0
"""For all exchanges together."""
_WARM = 0.1


async def measured(url: str, namespace: str, exchanges: Sequence[Exchange]) -> list[float]:
    """Seconds of each exchange, from the first message sent to the last one back; each is warmed up by a tenth of it.

    `namespace`: of the scenario whose streams or topics are there. Raises `CommandError`."""
    place = Place(url=url, namespace=namespace, name=f"bench-raw-{secrets.token_hex(4)}")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes, _told(place):
        await _client(place).make(place)
        loop = asyncio.get_running_loop()
        both = [loop.run_in_executor(processes, _take_part, place, role, tuple(exchanges)) for role in ("worker", "orchestrator")]
        try:
            return (await asyncio.gather(*both))[1]
        finally:
            await asyncio.wait(both)
            await _client(place).remove(place)


def _take_part(place: Place, role: Role, exchanges: Sequence[Exchange]) -> list[float]:
    with _told(place):
        return uvloop.run(_limited(_exchange(place, role, exchanges)))


@contextmanager
def _told(place: Place) -> Generator[None]:
    """What a client raises may not survive the way from one process to another."""
    foreseen: tuple[type[Exception], ...] = (*_client(place).errors, OSError)
    try:
        yield
    except foreseen as problem:
        raise CommandError(
            f"the plain client of {shown(place.url)} failed: {problem!r}",
            hint="is the broker up, and may this user make streams or topics?",
        ) from problem


async def _limited(work: Coroutine[Any, Any, T]) -> T:
    """Neither waits for ever for the other."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await work
    except TimeoutError as problem:
        raise CommandError(f"the broker's own rate could not be measured within {LIMIT_S:.0f} s", hint="lower --scale") from problem


async def _exchange(place: Place, role: Role, exchanges: Sequence[Exchange]) -> list[float]:
    side = await _client(place).open(place, role)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    took: list[float] = []
    try:
        for exchange in exchanges:
            for part in (exchange.part(_WARM), exchange):
                started = time.perf_counter()
                await (begin if role == "orchestrator" else answer)(side, part)
                took.append(time.perf_counter() - started)
    finally:
        await side.close()
    return took[1::2]


def _client(place: Place) -> Client:
    if place.url.startswith("kafka://"):
        from stepmesh_cli.bench.raw import kafka  # late: aiokafka need not be there

        return kafka.CLIENT
    from stepmesh_cli.bench.raw import nats

    return nats.CLIENT
