"""A run in one process: a history, a clock that is set, and the rule which record comes next.

Invariant: records are only appended, and a body gets them in that order. Whatever is ready now goes before time; of several ready things
the seed chooses. It is the counterpart of the orchestrator for tests, and as small as it can be: it keeps nothing but the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from random import Random

import msgspec

from stepmesh.durable.attempts import LocalStep
from stepmesh.durable.execution import Execution
from stepmesh.durable.turns import State, Turn
from stepmesh_broker.protocol.histories import NOTES, Issued, Kind, Record, Settled

BEGAN_MS = 1_700_000_000_000
Ready = Callable[[], Awaitable[Record]]
"""Does what is ready, and gives the record of it."""
Remote = Callable[[Issued], Ready | None]
"""What settles a command that is not the body's worker's own; None when nothing does yet."""


class Sequencer:
    """`begin`: makes a body; `remote`: calls, children, events and promises; `local`: a step as it is to be done. `replay`: every turn from
    the beginning."""

    def __init__(
        self,
        begin: Callable[[], Execution],
        remote: Remote,
        local: Callable[[LocalStep], LocalStep],
        *,
        seed: int = 0,
        replay: bool = True,
        now_ms: int = BEGAN_MS,
    ) -> None:
        self.records: list[Record] = []
        self.now_ms = now_ms
        self._turn = Turn(State.IDLE)
        self._begin = begin
        self._remote = remote
        self._local = local
        self._random = Random(seed)
        self._replay = replay
        self._live: Execution | None = None
        self._seen = 0
        self._is_new = True

    def look(self) -> Turn:
        """What the body says to its history as it is; its new commands are appended."""
        if not self._is_new:
            return self._turn
        execution = self._live
        if execution is None:
            execution, self._seen = self._begin(), 0
        new = self.records[self._seen :]
        self._turn = execution.turn(new)
        self._seen = len(self.records)
        self.records += self._turn.commands
        self._is_new = False
        over = self._turn.state is not State.IDLE
        if self._replay or over:
            execution.drop()
        self._live = None if self._replay or over else execution
        return self._turn

    def close(self) -> None:
        """Put away a body that is alive."""
        if self._live is not None:
            self._live.drop()
            self._live = None

    def append(self, *records: Record) -> None:
        """They come next."""
        self.records += records
        self._is_new = True

    def open(self) -> list[Issued]:
        """Commands whose result is awaited, in their order."""
        over = {record.id for record in self.records if isinstance(record, Settled)} | {*self._turn.abandoned}
        return [record for record in self.records if isinstance(record, Issued) and record.kind not in NOTES and record.id not in over]

    async def step(self, until_ms: int | None = None) -> bool:
        """One more record of what is ready, or the time of what is due next. False when there is neither, up to `until_ms`."""
        self.look()
        ready = [one for command in self.open() if (one := self._ready(command)) is not None]
        if ready:
            self.append(await self._random.choice(ready)())
            return True
        due = min(self._dues(), default=None)
        if due is None or (until_ms is not None and due > until_ms):
            self.now_ms = max(self.now_ms, until_ms or 0)
            return False
        self.now_ms = max(self.now_ms, due)
        return True

    def _ready(self, command: Issued) -> Ready | None:
        if command.kind is Kind.TIMER:
            return self._fired(command) if due_ms(command) <= self.now_ms and self._is_first(command) else None
        step = self._turn.local.get(command.id)
        if step is None:
            return self._remote(command)
        return self._attempt(self._local(step)) if step.due_ms <= self.now_ms else None

    def _fired(self, timer: Issued) -> Ready:
        async def fired() -> Record:
            return Settled(timer.id, max(due_ms(timer), self._last_ms()))

        return fired

    def _attempt(self, step: LocalStep) -> Ready:
        async def attempt() -> Record:
            waits = asyncio.current_task()
            doing = step.once(lambda: self.now_ms, lambda: waits is not None and not waits.cancelling())
            return await asyncio.create_task(doing, name=f"stepmesh step {step.command.id}")

        return attempt

    def _is_first(self, timer: Issued) -> bool:
        return due_ms(timer) == min(due_ms(one) for one in self.open() if one.kind is Kind.TIMER)

    def _dues(self) -> Iterable[int]:
        yield from (due_ms(command) for command in self.open() if command.kind is Kind.TIMER)
        yield from (step.due_ms for step in self._turn.local.values() if step.due_ms > self.now_ms)

    def _last_ms(self) -> int:
        return max((record.at_ms for record in self.records), default=BEGAN_MS)


def due_ms(timer: Issued) -> int:
    """When it fires."""
    return int(msgspec.json.decode(timer.arguments)["due_ms"])
