"""What the body of a workflow may ask for, beside its steps. Functions of the run that calls them: no object is handed around.

Invariant: each is a command with a name, or follows from the records that the body got; none asks the clock, the network or chance.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec

from stepmesh import payloads
from stepmesh.durable.durations import Duration, seconds
from stepmesh.durable.scopes import current
from stepmesh.durable.steps import Step, running, settling, written
from stepmesh_broker.protocol.histories import Kind

T = TypeVar("T")
_decode = payloads.reader(Any)


async def run(name: str, function: Callable[..., Awaitable[T] | T], *args: Any, **kwargs: Any) -> T:
    """A function as a step, by this name, without declaring it. Raises `StepFailed`."""
    return await Step(function, name)(*args, **kwargs)


async def call(component: str, input: Any = None) -> Any:
    """The output of a component of any pool, as a flow's step would have it. Raises `StepFailed`."""
    execution = running(f"wf.call({component!r})")
    return await execution.issue(Kind.CALL, component, written(component, input), settling(component, _decode))


async def child(flow: str, input: Any = None) -> Any:
    """The result of another flow or workflow, which runs as a run of its own below this one. Raises `StepFailed`."""
    execution = running(f"wf.child({flow!r})")
    return await execution.issue(Kind.CHILD, flow, written(flow, input), settling(flow, _decode))


async def sleep(duration: Duration, name: str = "sleep") -> None:
    """Durable: to the month, over restarts, and without a worker that waits. Raises `BadDuration`."""
    await _until(running("wf.sleep").loop.time() + seconds(duration), name)


async def sleep_until(moment: datetime, name: str = "sleep") -> None:
    """Until a moment; one without a time zone is UTC. At once when it is past."""
    running("wf.sleep_until")
    await _until((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), name)


async def _until(when: float, name: str) -> None:
    execution = running("wf.sleep")
    due = msgspec.json.encode({"due_ms": round(when * 1000)})
    await execution.issue(Kind.TIMER, name, due, lambda future, _: future.set_result(None))


def now() -> datetime:
    """The time of the last record: it stands still while the body runs, and is the same in a replay."""
    return datetime.fromtimestamp(running("wf.now").loop.time(), UTC)


def random() -> Random:
    """A generator that gives the same numbers in a replay: seeded by the run and by what was drawn before in this task."""
    execution = running("wf.random")
    return Random(f"{execution.run}/{current.get().name('random')}")


def uuid() -> UUID:
    """A version 4 UUID, the same in a replay."""
    return UUID(int=random().getrandbits(128), version=4)


def side_effect(name: str, make: Callable[[], T]) -> T:
    """A small value that the body makes itself, once: `make` is not called in a replay. Anything that may fail or takes time is a step."""
    execution = running(f"wf.side_effect({name!r})")
    value: T = _decode(execution.effect(name, lambda: written(name, make())))
    return value


def patched(name: str) -> bool:
    """True where the new code is to run: in runs that have not got past this place on the old one."""
    return running(f"wf.patched({name!r})").patched(name)


def set(name: str, value: Any) -> None:  # wf.set reads as it is meant
    """An attribute of the run, to be seen and searched by."""
    running(f"wf.set({name!r})").note(Kind.ATTRIBUTE, name, written(name, value))


async def first(*awaitables: Awaitable[Any]) -> tuple[int, Any]:
    """(index, value) of the one that ends first; the others are cancelled. Raises what it raised."""
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
    wanted = 1 if return_when == "first" else len(futures)
    moved: asyncio.Future[None] = running("wf.wait").loop.create_future()

    def look(_: object) -> None:
        if not moved.done() and sum(future.done() for future in futures) >= wanted:
            moved.set_result(None)

    for future in futures:
        future.add_done_callback(look)
    look(None)
    await moved
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


@asynccontextmanager
async def shield() -> AsyncGenerator[None, None]:
    """A cancellation of the run that comes inside is delivered at the end of it."""
    execution = running("wf.shield")
    execution.shield()
    try:
        yield
    finally:
        execution.unshield()


class Saga:
    """What is to be undone when the block fails."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Awaitable[Any]]] = []

    def undo(self, step: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> None:
        """`step(*args)` is run if what follows fails, the last one first."""
        self._undo.append(lambda: step(*args, **kwargs))

    async def compensate(self) -> None:
        """All of it. One that fails leaves the rest to be done; the first failure is raised at the end."""
        failed: Exception | None = None
        while self._undo:
            try:
                await self._undo.pop()()
            except Exception as problem:
                failed = failed or problem
        if failed is not None:
            raise failed


@asynccontextmanager
async def saga() -> AsyncGenerator[Saga, None]:
    """`async with wf.saga() as saga:`. When the block raises, or the run is cancelled in it, what was noted is undone, and it is raised
    on."""
    made = Saga()
    try:
        yield made
    except BaseException as problem:
        if isinstance(problem, GeneratorExit):
            raise
        async with shield():
            await made.compensate()
        raise


def _task(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    if inspect.iscoroutine(awaitable):
        return running("this").loop.create_task(awaitable)
    return asyncio.ensure_future(_awaited(awaitable)) if not asyncio.isfuture(awaitable) else awaitable


def _awaited(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    async def wrapped() -> T:
        return await awaitable

    return wrapped()
