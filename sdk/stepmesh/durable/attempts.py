"""One attempt of a local step: what it is told, how long it may take, and the record that comes of it.

Invariant: an attempt ends in one record, `Settled` or `Tried`, and raises nothing but a cancellation of whoever waits for it. It must not
know the body: the step runs in the worker, outside of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

from stepmesh import outcome
from stepmesh.durable.pulse import Pulse, Silent
from stepmesh.durable.retrying import NEVER, Retry, delay_ms
from stepmesh_broker.protocol.histories import Issued, Settled, Tried
from stepmesh_broker.protocol.messages import Failure

Work = Callable[[], Awaitable[bytes] | bytes]
"""Does a local step; its value as JSON text."""
Clock = Callable[[], int]
"""ms since 1970."""
THREADS = 32
"""Steps that are ordinary functions run at once, at most: never in the default executor, which others of the process fill."""


@dataclass(frozen=True)
class StepInfo:
    """What a running step knows of itself. `idempotency_key`: `<run>/<step id>`, the same in every attempt and in no other step; give it
    to services that deduplicate. `attempt` counts from 1."""

    name: str
    id: str
    run: str
    attempt: int
    idempotency_key: str
    beat: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def heartbeat(self) -> None:
        """A sign of life, from whatever thread: a step that is declared with `heartbeat` has to give one within that time."""
        self.beat()


in_step: ContextVar[StepInfo] = ContextVar("stepmesh_step")
"""Of the local step that runs; unset elsewhere."""


@dataclass(frozen=True)
class Plan:
    """How a local step is done. `is_async`: `work` gives an awaitable; else it runs in a thread. `heartbeat_s`: how long it may be
    silent. `idempotent`: doing it again does no harm."""

    work: Work
    retry: Retry = NEVER
    timeout_s: float | None = None
    is_async: bool = True
    heartbeat_s: float | None = None
    idempotent: bool = False


@dataclass(frozen=True)
class LocalStep:
    """A step that the worker of the body is to do. `tried`: how its last attempt ended, None before the first one."""

    command: Issued
    run: str
    plan: Plan
    tried: Tried | None = None

    @property
    def key(self) -> str:
        """`<run>/<step id>`."""
        return f"{self.run}/{self.command.id}"

    @property
    def attempt(self) -> int:
        """Which attempt comes next, from 1."""
        return 1 if self.tried is None else self.tried.attempt + 1

    @property
    def due_ms(self) -> int:
        """When it is due, in ms since 1970; 0 = now."""
        return 0 if self.tried is None else self.tried.due_ms

    async def once(self, clock: Clock, wanted: Callable[[], bool] = lambda: False) -> Settled | Tried:
        """Do the next attempt. `clock` says what time it is when it ended. `wanted`: whether whoever waits for it still does when the task
        that this runs in is cancelled: then the step did that itself, and failed."""
        try:
            try:
                value = await self()
            finally:
                await _came_through()
        except asyncio.CancelledError as problem:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                if not wanted():
                    raise
                task.uncancel()
            return self.failed(problem, clock())
        except (Exception, SystemExit) as problem:
            return self.failed(problem, clock())
        return Settled(self.command.id, clock(), value, attempt=self.attempt)

    def failed(self, problem: BaseException, now_ms: int) -> Settled | Tried:
        """What an attempt that ended so is recorded as."""
        failure = _failure(problem)
        delay = delay_ms(self.plan.retry, self.key, self.attempt, problem)
        if delay is None:
            return Settled(self.command.id, now_ms, failure=failure, attempt=self.attempt)
        return Tried(self.command.id, now_ms, self.attempt, failure, now_ms + delay)

    async def __call__(self) -> bytes:
        """The value as JSON text. Raises what the step raised, `TimedOut` when it took too long, `Silent` when it gave no sign of life."""
        if self.plan.heartbeat_s is None:
            return await self._within_time(StepInfo(self.command.name, self.command.id, self.run, self.attempt, self.key))
        pulse = Pulse(self.plan.heartbeat_s)
        async with pulse:
            return await self._within_time(StepInfo(self.command.name, self.command.id, self.run, self.attempt, self.key, pulse.beat))

    async def _within_time(self, info: StepInfo) -> bytes:
        told = in_step.set(info)
        try:
            return await (self._worked() if self.plan.timeout_s is None else self._limited(self.plan.timeout_s))
        finally:
            in_step.reset(told)

    async def _limited(self, seconds: float) -> bytes:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._worked()
        except TimeoutError as problem:
            if limit.expired():
                raise TimedOut(seconds) from problem
            raise

    async def _worked(self) -> bytes:
        if self.plan.is_async:
            done = self.plan.work()
        else:
            run = contextvars.copy_context().run
            done = await asyncio.get_running_loop().run_in_executor(_threads(), run, self._in_thread)
        return await done if inspect.isawaitable(done) else done

    def _in_thread(self) -> Awaitable[bytes] | bytes:
        try:
            return self.plan.work()
        except StopIteration as problem:  # no future takes it: whoever waits would never hear of the end
            raise RuntimeError("the step raised StopIteration") from problem


def _failure(problem: BaseException) -> Failure:
    if isinstance(problem, Silent):
        found = outcome.silent(problem.within_s)
    else:
        found = outcome.timed_out(problem.limit_s) if isinstance(problem, TimedOut) else outcome.raised(problem)
    assert found.failure is not None
    return found.failure


async def _came_through() -> None:
    """A task that was cancelled, and awaited nothing since, hears of it here."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)


class TimedOut(Exception):
    """The attempt took longer than it may."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the attempt ran longer than {limit_s:g} s")
        self.limit_s = limit_s


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="stepmesh-step")
