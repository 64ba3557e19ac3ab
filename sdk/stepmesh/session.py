"""One run of a worker: begin, work, leave cleanly, whichever way its tasks come.

Invariant: what this session took and did not finish is handed back or left unacknowledged, so it is never lost. It knows when to take
tasks and when to stop them; how tasks come and results go is the link's (broker_link.py, gateway_link.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from stepmesh.attempt import Attempt, Why
from stepmesh.component import Components
from stepmesh.durable.telling import Turns
from stepmesh.execution import Execution, Limits
from stepmesh.instrument import Instrument
from stepmesh.requests import Requests
from stepmesh_broker.protocol.ids import Namespace, Pool, WorkerId
from stepmesh_broker.protocol.messages import Result

LEAVING_SHARE = 0.25
"""Part of the drain's grace period that is kept for stopping tasks and sending results."""
LEAVING_MOST_S = 5.0
"""... but at most this many seconds."""
HURRY_S = 1.0
"""The same after a second stop, in seconds."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is to others."""

    worker: WorkerId
    namespace: Namespace
    pool: Pool
    version: str
    exclusive: bool


class Link(Protocol):
    """How the tasks of a session come, and how its results go. `turns`: of durable functions; None where they cannot be told."""

    turns: Turns | None

    async def open(self, session: Session) -> None:
        """Take part: from now on tasks may come. Raises `BrokerUnavailable` when it cannot begin."""
        ...

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """See `execution.Surroundings`."""
        ...

    def ask(self, attempts: list[Attempt]) -> None:
        """See `execution.Surroundings`."""
        ...

    def waiting(self) -> Iterable[Attempt]:
        """Attempts in hand that the execution does not have at present."""
        ...

    def changed(self) -> None:
        """There may be room for more tasks."""
        ...

    def announce(self) -> None:
        """Tell now what the worker offers."""
        ...

    async def take_no_more(self) -> None:
        """Returns when no further task comes."""
        ...

    async def flushed(self) -> None:
        """Returns when every result that was handed over has arrived."""
        ...

    def abandon(self) -> None:
        """Give up what has not arrived, and take nothing more."""
        ...

    async def close(self) -> None:
        """Say goodbye. Nothing is called afterwards."""
        ...


class Session:
    """`stop()` begins to leave; `hurry()` ends the patience with running tasks. `change`: there may be room, or less to wait for."""

    def __init__(self, link: Link, components: Components, limits: Limits, requests: Requests, instrument: Instrument | None) -> None:
        self.components = components
        self.limits = limits
        self.leaving = asyncio.Event()
        self.change = asyncio.Event()
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._failure: BaseException | None = None
        self._hurried = asyncio.Event()
        self._watched: set[asyncio.Task[None]] = set()
        self.execution = Execution(components, limits, requests, self, instrument)

    async def run(self, grace_s: float) -> None:
        """Work until `stop()`, then leave within `grace_s` seconds. Raises what broke the machinery, if something did."""
        try:
            await self.link.open(self)
            await self.leaving.wait()
            await self._leave(grace_s)
        finally:
            for task in self._watched:
                task.cancel()
            self.execution.close()
            self.link.abandon()
            for attempt in self.attempts():
                self.execution.stop(attempt, Why.LEAVING)
            await self.link.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take nothing more and leave."""
        self.leaving.set()
        self.change.set()

    def hurry(self) -> None:
        """Leave without waiting for running tasks; they are handed back."""
        self._hurried.set()
        self.change.set()
        self.stop()

    def announce(self) -> None:
        """The components came or went: tell it at once."""
        self.link.announce()

    @property
    def stuck(self) -> int:
        """Attempts that run although they were told to stop."""
        return sum(attempt.why is not None for attempt in self.execution.live)

    def attempts(self) -> list[Attempt]:
        """All that is in hand and has not ended."""
        return [*self.execution.ready, *self.execution.live, *self.link.waiting()]

    def watch(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do `work` beside the tasks, until the session ends; what it raises ends the session."""
        task = self._loop.create_task(work, name=name)
        self._watched.add(task)
        task.add_done_callback(self._ended)
        return task

    # --- what execution and link tell ---------------------------------------------------------------------------

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """See `execution.Surroundings`."""
        self.link.settled(attempt, result)

    def ask(self, attempts: list[Attempt]) -> None:
        """See `execution.Surroundings`."""
        self.link.ask(attempts)

    def changed(self) -> None:
        """See `execution.Surroundings`."""
        self.change.set()
        self.link.changed()

    def turns(self) -> Turns | None:
        """See `execution.Surroundings`."""
        return self.link.turns

    def broken(self, problem: BaseException) -> None:
        """See `execution.Surroundings`."""
        if self._failure is None:
            self._failure = problem
        self.hurry()

    # --- leaving ------------------------------------------------------------------------------------------------

    async def _leave(self, grace_s: float) -> None:
        """Hand back what did not start, let the rest finish, stop what does not, send what ended."""
        until = self._loop.time() + grace_s
        reserve_s = min(LEAVING_MOST_S, grace_s * LEAVING_SHARE)
        self.execution.close()
        await self._within(until - reserve_s, self.link.take_no_more())
        for attempt in self.attempts():
            if not attempt.live:
                self.execution.stop(attempt, Why.LEAVING)
        await self._until_idle(until - reserve_s)
        until = min(until, self._loop.time() + (HURRY_S if self._hurried.is_set() else reserve_s))
        for attempt in self.attempts():
            self.execution.stop(attempt, Why.LEAVING)
        self._hurried.clear()
        await self._until_idle((until + self._loop.time()) / 2)
        for attempt in tuple(self.execution.live):
            self.execution.give_up(attempt)
        await self._within(until, self.link.flushed())

    async def _within(self, until: float, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        await asyncio.wait([task], timeout=max(0.0, until - self._loop.time()))
        task.cancel()

    async def _until_idle(self, until: float) -> None:
        while self.execution.live and (left := until - self._loop.time()) > 0 and not self._hurried.is_set():
            self.change.clear()
            try:
                await asyncio.wait_for(self.change.wait(), left)
            except TimeoutError:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watched.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.broken(problem)
