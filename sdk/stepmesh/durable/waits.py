"""What a body waits for: the commands without a result, and what is to become of each when there is one.

Invariant: a command that the body gave up is still known, because its result may be on its way, and moves nothing when it comes. All of it
costs the same however much is waited for. It must not know where commands come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stepmesh.durable.attempts import LocalStep, Plan
from stepmesh.durable.loop import ReplayLoop, Timer, unlink
from stepmesh_broker.protocol.histories import Issued, Settled, Tried

Settle = Callable[[asyncio.Future[Any], Settled], None]
"""Puts what came of a command into its future."""


class Wait(asyncio.Future[Any]):
    """The future of a command. `on_end` is told when it ends by itself: cancelled, or with an exception."""

    on_end: Callable[[], None] | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """As ever."""
        is_over = super().cancel(msg)
        if is_over and self.on_end is not None:
            self.on_end()
        return is_over

    def set_exception(self, exception: type | BaseException, /) -> None:
        """As ever."""
        super().set_exception(exception)
        if self.on_end is not None:
            self.on_end()


@dataclass(frozen=True, slots=True)
class _Awaited:
    """Exactly one of the two is set."""

    future: tuple[asyncio.Future[Any], Settle] | None = None
    timer: Timer | None = None


class Waits:
    """Of one body. `abandoned`: ids that it gave up, oldest first. `local`: steps that the worker is to do."""

    def __init__(self, run: str, loop: ReplayLoop) -> None:
        self._run = run
        self._loop = loop
        self._awaited: dict[str, _Awaited] = {}
        self._abandoned: dict[str, None] = {}
        self._local: dict[str, LocalStep] = {}

    def add(self, command: Issued, future: Wait, settle: Settle, plan: Plan | None) -> None:
        """The body waits for the command's future."""
        self._awaited[command.id] = _Awaited(future=(future, settle))
        future.on_end = partial(self._give_up, command.id)
        if plan is not None:
            self._local[command.id] = LocalStep(command, self._run, plan)

    def add_timer(self, command: Issued, timer: Timer) -> None:
        """The body waits for a moment."""
        self._awaited[command.id] = _Awaited(timer=timer)
        timer.on_cancel = partial(self._give_up, command.id)

    def tried(self, record: Tried) -> None:
        """An attempt failed; another one is due."""
        step = self._local.get(record.id)
        if step is not None:
            self._local[record.id] = LocalStep(step.command, step.run, step.plan, record)

    def settle(self, record: Settled) -> bool:
        """There is a result. False when the body did not ask for it."""
        awaited = self._awaited.pop(record.id, None)
        if awaited is None:
            return False
        self._abandoned.pop(record.id, None)
        self._local.pop(record.id, None)
        if awaited.timer is not None:
            self._loop.fire(awaited.timer)
        elif awaited.future is not None and not awaited.future[0].done():
            future, settle = awaited.future
            settle(future, record)
        return True

    @property
    def abandoned(self) -> list[str]:
        """See above."""
        return list(self._abandoned)

    @property
    def local(self) -> dict[str, LocalStep]:
        """See above."""
        return dict(self._local)

    def forget(self) -> None:
        """Of a body that is put away."""
        for awaited in self._awaited.values():
            unlink(awaited.future[0] if awaited.future else None)
        self._awaited.clear()
        self._local.clear()

    def __bool__(self) -> bool:
        """Whether a result could move the body."""
        return len(self._awaited) > len(self._abandoned)

    def _give_up(self, id: str) -> None:
        if id in self._awaited:
            self._abandoned[id] = None
            self._local.pop(id, None)
