"""How often a server that could not be connected to is tried again: now and then for all, not once per job.

A PostgreSQL that crashed recovers only when it has refused the last of those who wait at its door: a process whose every job knocks keeps
it from that. Invariant: after a failure one attempt is under way at most, and none before the pause is over; whoever asks in between is
told of the failure at once. Must not know what is connected to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Generic, TypeVar

from stepmesh_orchestrator.postgres.faults import ERRORS

T = TypeVar("T")

PAUSE_S = (0.05, 1.0)
"""Before the next attempt: first, and largest (seconds); it doubles between."""


class Attempts(Generic[T]):
    """`connect` makes a connection. As long as that succeeds, any number of them are made side by side."""

    def __init__(self, connect: Callable[[], Awaitable[T]]) -> None:
        self._connect = connect
        self._under_way = 0
        self._failure: Exception | None = None
        self._pause_s, self._largest_s = PAUSE_S
        self._next_at = 0.0

    def forget(self) -> None:
        """The next attempt is made at once, whatever became of the last."""
        self._failure = None
        self._pause_s = PAUSE_S[0]

    async def connection(self) -> T:
        """A new one. Raises one of `ERRORS`: of this attempt, or of the last, when it is too early for another."""
        failure = self._failure
        if failure is not None and (self._under_way or _now() < self._next_at):
            raise copy(failure)  # with a way of its own through its caller
        self._under_way += 1
        try:
            made = await self._connect()
        except ERRORS as error:
            if self._failure is failure:  # else one that began beside this one has failed before
                self._put_off(error)
            raise
        finally:
            self._under_way -= 1
        self.forget()
        return made

    def _put_off(self, failure: Exception) -> None:
        self._failure = copy(failure)
        self._next_at = _now() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._largest_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
