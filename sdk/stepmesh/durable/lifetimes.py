"""How long the body of a workflow may take as a whole, and who is told when it failed.

Invariant: both are part of the body, so they are in its history and hold over every crash: the time is a timer of the run, and who is told
is told by a step of it. It must not know what a body does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from stepmesh.durable.durations import Duration, seconds
from stepmesh.durable.errors import BadWorkflow
from stepmesh.durable.execution import executing
from stepmesh.durable.identity import Identity

R = TypeVar("R")


class FailedRun(msgspec.Struct, frozen=True):
    """What `on_failure` is given. `run`: what the body is known by; `error`: the exception's type, by name; `message`: its text."""

    run: str
    workflow: str
    error: str
    message: str


OnFailure = Callable[[FailedRun], Awaitable[Any]]


@dataclass(frozen=True)
class Lifetime:
    """`timeout`: from the body's beginning to its end, waits and all; what a shield holds is done to its end, as with a cancellation.
    None = as long as it takes. `on_failure`: a step, or an `async def` with steps, that is awaited when the body raised; a cancelled one
    did not fail. Raises `BadDuration`, `BadWorkflow`."""

    timeout: Duration | None = None
    on_failure: OnFailure | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            seconds(self.timeout)
        if self.on_failure is not None and not callable(self.on_failure):
            raise BadWorkflow(
                f"on_failure is {self.on_failure!r}, which cannot be called", hint="give a step: `async def notify(failed: FailedRun)`"
            )

    async def of(self, body: Callable[[], Awaitable[R]], identity: Identity) -> R:
        """What the body returns. Raises what it raises, or `TimeoutError`."""
        try:
            return await (body() if self.timeout is None else _in_time(body, self.timeout, identity.workflow))
        except Exception as problem:
            if self.on_failure is not None:
                await self._tell(self.on_failure, problem, identity)
            raise

    async def _tell(self, on_failure: OnFailure, problem: Exception, identity: Identity) -> None:
        """When that fails, too, the run still fails with the first problem."""
        try:
            await on_failure(FailedRun(identity.run, identity.workflow, type(problem).__name__, str(problem)))
        except Exception as second:
            problem.add_note(f"on_failure failed, too: {second}")


AS_LONG_AS_IT_TAKES = Lifetime()


async def _in_time(body: Callable[[], Awaitable[R]], timeout: Duration, name: str) -> R:
    loop, limit = asyncio.get_running_loop(), asyncio.timeout(None)
    timer = loop.call_later(seconds(timeout), executing.get().unless_shielded, lambda: limit.reschedule(loop.time()))
    try:
        async with limit:
            return await body()
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"the workflow {name} was not over within {timeout}") from None
    finally:
        timer.cancel()
