"""The benchmark's durable functions: one that does local steps in a row, and one that sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from stepmesh import Worker
from stepmesh.durable.hosting import hosted
from stepmesh.durable.steps import Step

POOL = "bench-functions"
AT_ONCE = 512
"""Functions under way in one worker."""


async def add(n: int) -> int:
    """A step that does next to nothing."""
    return n + 1


_add: Step[[int], int] = Step(add)


async def chain(steps: int) -> int:
    """Local steps in a row, each on the one before."""
    n = 0
    for _ in range(steps):
        n = await _add(n)
    return n


async def nap(seconds: float) -> None:
    """One step, and a sleep."""
    await _add(1)
    await asyncio.sleep(seconds)


FUNCTIONS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {"/chain": chain, "/nap": nap}


def make_worker(namespace: str | None = None) -> Worker:
    """A worker of pool `bench-functions`."""
    worker = Worker(pool=POOL, namespace=namespace, concurrency=AT_ONCE)
    for path, function in FUNCTIONS.items():
        worker.add(hosted(function, path))
    return worker


worker = make_worker()
