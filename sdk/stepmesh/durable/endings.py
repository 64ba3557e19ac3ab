"""How a body may end badly: it goes on after it was cancelled, leaves something behind, or its history grows without end.

Invariant: each is found from what was recorded, so a replay finds it at the same place. The errors name file, line, cause and fix.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from stepmesh.durable.identity import Identity
from stepmesh.durable.loop import SwallowedEnd
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.histories import Issued

log = logging.getLogger("stepmesh.durable")
_NAMED = 5
"""Names that a message shows."""
_SOME = 64
"""Coroutines that are remembered before it is looked which of them began, and tasks before it is looked which have ended."""
_REMEMBERED = 10_000
"""Histories of which it is known that the log has a line."""


class CancelSwallowed(StepmeshError):
    """SM-1016: the run was cancelled, and the body went on as if it had not been."""

    default_code = "SM-1016"


class LeftBehind(StepmeshError):
    """SM-1021: the body ended, and something that it began or made was never waited for."""

    default_code = "SM-1021"


class HistoryTooLong(StepmeshError):
    """SM-1050: more records than a run should have: every replay reads them all."""

    default_code = "SM-1050"


class Cancelling:
    """A cancellation of the run on its way into the body: held back by shields, and counted after. `most`: commands that may follow it."""

    def __init__(self, most: int) -> None:
        self.shields = 0
        self.reason = ""
        self._most = most
        self._waits = False
        self._after: int | None = None

    def ask(self, reason: str) -> None:
        """The run is to be cancelled."""
        self.reason = reason
        self._waits = True

    def due(self) -> bool:
        """Whether the body is to be told now; true once per `ask`."""
        if not self._waits or self.shields > 0:
            return False
        self._waits = False
        self._after = self._after or 0
        return True

    def asked(self, command: Issued, identity: Identity) -> CancelSwallowed | None:
        """The body asks for something. An error when it does so too often after it was told to end, outside of a shield."""
        if self._after is None or self.shields > 0:
            return None
        self._after += 1
        if self._after <= self._most:
            return None
        suspects = [line for line in identity.suspects() if SwallowedEnd.default_code in line]
        cause = "; ".join(suspects) if suspects else "an `except` that catches asyncio.CancelledError and goes on"
        return CancelSwallowed(
            f"run {identity} was cancelled, and the body went on: `{command.name}` at {command.where} is command {self._after} after that. "
            f"Likely cause: {cause}. The run ends as cancelled here",
            hint="do what is to be done at the end inside `async with wf.shield():`, and raise the cancellation again",
        )


class Leftovers:
    """What a body made and did not wait for."""

    def __init__(self) -> None:
        self._expected: list[tuple[Coroutine[Any, Any, Any], str, str]] = []
        self._full = self._many = _SOME
        self._detached: list[asyncio.Future[Any]] = []

    def expect(self, coroutine: Coroutine[Any, Any, Any], what: str, where: str) -> None:
        """It is there to be awaited."""
        if len(self._expected) >= self._full:
            self._expected = [one for one in self._expected if _is_new(one[0])]
            self._full = max(_SOME, 2 * len(self._expected))
        self._expected.append((coroutine, what, where))

    def detach(self, task: asyncio.Future[Any]) -> None:
        """Nobody needs to wait for this one but the run: it ends after it."""
        if len(self._detached) >= self._many:
            self._detached = [one for one in self._detached if not one.done()]
            self._many = max(_SOME, 2 * len(self._detached))
        self._detached.append(task)

    def detached_are_done(self) -> bool:
        """Whether the run may end."""
        return all(task.done() for task in self._detached)

    def cancel(self) -> None:
        """The run is cancelled, and what was detached with it."""
        for task in self._detached:
            task.cancel()

    def close(self) -> None:
        """Nothing of it will ever begin."""
        for coroutine, *_ in self._expected:
            if _is_new(coroutine):
                coroutine.close()
        self._expected.clear()
        self._detached.clear()

    def found(self, alive: Iterable[asyncio.Task[Any]], identity: Identity, policy: str) -> LeftBehind | None:
        """At the end of a body that returned. `alive`: tasks that are not done. A task that was left, such as the loser of a race, is told
        of; what never even began is an error."""
        excused = {*self._detached}
        never = [f"{what} ({where}) was never awaited" for coroutine, what, where in self._expected if _is_new(coroutine)]
        left = [*never, *(f"{_standing(task)} was not waited for" for task in alive if task not in excused)]
        if not left or policy == "off":
            return None
        more = f", and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        problem = LeftBehind(
            f"the body of run {identity} ended, and {', '.join(left[:_NAMED])}{more}: what it asked for may never be done",
            hint="`await` it, or say wf.detach(…): the run then ends after it",
        )
        if policy == "warn" or not never:
            log.warning("%s", problem)
            return None
        return problem


class Warned:
    """Histories that the log of one process has a line of; the latest of them, for a worker has many."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], None] = {}

    def first(self, whose: tuple[str, int]) -> bool:
        """Whether there was none yet. `whose`: see `TooLong`."""
        if whose in self._known:
            return False
        self._known[whose] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return True


class TooLong:
    """A history that grows: of `whose` body, by what it is known by and when it began. `warn`, `most`: records. `warned`: may be that of
    whoever makes many bodies."""

    def __init__(self, warn: int, most: int, whose: tuple[str, int]) -> None:
        self.warned = Warned()
        self._warn = warn
        self._most = most
        self._whose = whose
        self._records = 0

    def grown(self, records: int, replayed: int, new: int, counts: Callable[[], Counter[str]], identity: Identity) -> HistoryTooLong | None:
        """`records` more were read, the first `replayed` of which a body had before, and `new` are about to follow. An error when they are
        too many; when they come near to that, and not where they were that many before, a line in the log."""
        before = self._records + replayed
        self._records += records
        size = self._records + new
        is_over = size > self._most
        if not is_over and not (before <= self._warn < size and self.warned.first(self._whose)):
            return None
        names = ", ".join(f"{name} ×{count}" for name, count in counts().most_common(_NAMED))
        problem = HistoryTooLong(
            f"the history of run {identity} has {size} records, {'above the limit of' if is_over else 'near the limit of'} "
            f"{self._most}; most of them: {names}. Every replay reads them all",
            hint="end a round of the loop with wf.continue_as_new(…), or move the loop into a child",
        )
        if is_over:
            return problem
        log.warning("%s", problem)
        return None


def _is_new(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def _standing(task: asyncio.Task[Any]) -> str:
    """`the task watch (orders.py:31)`: where it waits."""
    coroutine: Any = task.get_coro()
    frame, code = getattr(coroutine, "cr_frame", None), getattr(coroutine, "cr_code", None)
    file = "?" if code is None else Path(code.co_filename).name
    line = 0 if frame is None else frame.f_lineno
    return f"the task {getattr(coroutine, '__qualname__', task.get_name())} ({file}:{line})"
