"""The benchmark's durable functions: local steps in a row, with each journaled at once or some at a time, and one that sleeps."""

from __future__ import annotations

import asyncio

from stepmesh import Worker
from stepmesh.durable.app import App

app = App("bench-functions")
AT_ONCE = 512
"""Functions under way in one worker."""


@app.step
async def add(n: int) -> int:
    """A step that does next to nothing."""
    return n + 1


@app.step(idempotent=True)
async def add_again(n: int) -> int:
    """The same, and may be done again."""
    return n + 1


@app.workflow
async def chain(steps: int) -> int:
    """Local steps in a row, each on the one before."""
    n = 0
    for _ in range(steps):
        n = await add(n)
    return n


@app.workflow(checkpoint="batch:50ms")
async def hurry(steps: int) -> int:
    """The same, ahead of its history."""
    n = 0
    for _ in range(steps):
        n = await add_again(n)
    return n


@app.workflow
async def nap(seconds: float) -> None:
    """One step, and a sleep."""
    await add(1)
    await asyncio.sleep(seconds)


def make_worker(namespace: str | None = None) -> Worker:
    """A worker of pool `bench-functions`."""
    return app.worker(namespace=namespace, concurrency=AT_ONCE)


worker = make_worker()
