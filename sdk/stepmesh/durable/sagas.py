"""A block of steps that is undone, the last one first, when it cannot be done to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from stepmesh.durable.concurrency import shield
from stepmesh.durable.errors import Continued
from stepmesh.durable.scopes import undoing
from stepmesh.durable.steps import running


class Saga:
    """What is to be undone when the block fails. Its steps are marked in the history: who goes on from there in another run takes over
    nothing of what was asked for since `began`, the command before the block."""

    def __init__(self, began: str = "") -> None:
        self._began = began
        self._undo: list[Callable[[], Awaitable[Any]]] = []

    def undo(self, step: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> None:
        """`step(*args)` is run if what follows fails, the last one first."""
        self._undo.append(lambda: step(*args, **kwargs))

    async def compensate(self) -> None:
        """All of it. One that fails leaves the rest to be done; the first failure is raised at the end."""
        failed: Exception | None = None
        marked = undoing.set(self._began)
        try:
            while self._undo:
                try:
                    await self._undo.pop()()
                except Exception as problem:
                    failed = failed or problem
        finally:
            with suppress(ValueError):  # the collector puts a dropped body away wherever it is
                undoing.reset(marked)
        if failed is not None:
            raise failed


@asynccontextmanager
async def saga() -> AsyncGenerator[Saga, None]:
    """`async with wf.saga() as saga:`. When the block raises, or the run is cancelled in it, what was noted is undone, and it is raised
    on."""
    execution = running("wf.saga")
    made = Saga(execution.last_asked)
    execution.sagas += 1
    try:
        yield made
    except BaseException as problem:
        if isinstance(problem, (GeneratorExit, Continued)):
            raise
        async with shield():
            await made.compensate()
        raise
    finally:
        execution.sagas -= 1
