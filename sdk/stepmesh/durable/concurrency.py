"""Several things at once in a body, with answers in an order that a replay keeps: the first of them, all of them, a bounded number of them.

Invariant: results stand in the order in which their awaitables were given, whatever ended first.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

from stepmesh.durable.steps import running

T = TypeVar("T")


async def first(*awaitables: Awaitable[Any]) -> tuple[int, Any]:
    """(index, value) of the one that ends first; the others are cancelled. Raises what it raised; `ValueError` when there is none."""
    if not awaitables:
        raise ValueError("wf.first was given nothing to wait for")
    tasks = [_task(awaitable) for awaitable in awaitables]
    try:
        done, _ = await wait(tasks, return_when="first")
        return tasks.index(done[0]), done[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def wait(
    awaitables: Iterable[Awaitable[T]], *, return_when: Literal["first", "all"] = "all"
) -> tuple[list[asyncio.Future[T]], list[asyncio.Future[T]]]:
    """(done, not done), in the order in which they were given, which `asyncio.wait` would not keep. Raises nothing of theirs."""
    futures = [_task(awaitable) for awaitable in awaitables]
    wanted = min(1, len(futures)) if return_when == "first" else len(futures)
    moved: asyncio.Future[None] = running("wf.wait").loop.create_future()

    def look(_: object) -> None:
        if not moved.done() and sum(future.done() for future in futures) >= wanted:
            moved.set_result(None)

    for future in futures:
        future.add_done_callback(look)
    look(None)
    try:
        await moved
    finally:
        for future in futures:
            future.remove_done_callback(look)
    return [one for one in futures if one.done()], [one for one in futures if not one.done()]


async def map(
    function: Callable[[Any], Awaitable[T]], items: Sequence[Any], *, limit: int = 0, on_error: Literal["raise", "collect"] = "raise"
) -> list[T | Exception]:
    """The results in the order of the items, at most `limit` at once (0 = all). `collect`: failures stand among the results."""
    running("wf.map")
    places = asyncio.Semaphore(limit or max(1, len(items)))

    async def one(item: Any) -> T:
        async with places:
            return await function(item)

    tasks = [_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks, return_exceptions=on_error == "collect")  # type: ignore[return-value]
    finally:
        for task in tasks:
            task.cancel()


def detach(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    """It begins, and nobody needs to wait for it; the run ends after it. When it fails, the log says so and the run goes on."""
    task = _task(awaitable)
    running("wf.detach").detach(task)
    return task


@asynccontextmanager
async def shield() -> AsyncGenerator[None, None]:
    """A cancellation of the run that comes inside is delivered at the end of it."""
    execution = running("wf.shield")
    execution.shield()
    try:
        yield
    finally:
        execution.unshield()


def _task(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    if inspect.iscoroutine(awaitable):
        return running("this").loop.create_task(awaitable)
    return asyncio.ensure_future(_awaited(awaitable)) if not asyncio.isfuture(awaitable) else awaitable


def _awaited(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    async def wrapped() -> T:
        return await awaitable

    return wrapped()
