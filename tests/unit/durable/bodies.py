"""Bodies and a journal in memory for them: every turn replays from the beginning, results come in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

import msgspec

from stepmesh.durable.attempts import LocalStep
from stepmesh.durable.execution import Execution, State, Turn, executing
from stepmesh.durable.limits import STRICT
from stepmesh_broker.protocol.histories import NOTES, Issued, Kind, Record, Settled
from stepmesh_broker.protocol.messages import ErrorCode, Failure

BEGAN_MS = 1_700_000_000_000
RUN = "01900000-0000-7000-8000-000000000001"
Body = Callable[[], Coroutine[Any, Any, Any]]


async def step(name: str, value: Any = None) -> Any:
    """A step that gives what it was given."""
    return await executing.get().issue(Kind.STEP, name, msgspec.json.encode({"value": value}), settle)


def settle(future: asyncio.Future[Any], record: Settled) -> None:
    if record.failure is not None:
        future.set_exception(RuntimeError(record.failure.message))
    else:
        future.set_result(msgspec.json.decode(record.value))


class Journal:
    """The only sequencer: appends what a turn asks for, then completes whatever it likes."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.records: list[Record] = []
        self.open: list[Issued] = []
        self.now_ms = BEGAN_MS
        self.local: Mapping[str, LocalStep] = {}
        self.turns = 0

    def replay(self, body: Body) -> Turn:
        """All of it anew, in another execution."""
        self.turns += 1
        execution = Execution(body, BEGAN_MS, RUN, limits=STRICT)
        try:
            return execution.turn(self.records)
        finally:
            execution.drop()

    def run(self, body: Body, most: int = 200) -> Turn:
        """Until the body ends, one completion a turn, each turn from the beginning."""
        for _ in range(most):
            turn = self.replay(body)
            if turn.state is not State.IDLE:
                return turn
            self.append(turn)
            self.complete()
        raise AssertionError(f"not over after {most} turns")

    def append(self, turn: Turn) -> None:
        self.records += turn.commands
        self.local = turn.local
        answered = [one for one in turn.commands if one.kind not in NOTES]
        self.open = [one for one in (*self.open, *answered) if one.id not in turn.abandoned]

    def complete(self) -> None:
        """One of the open ones. Of timers, the earliest."""
        timers = sorted((one for one in self.open if one.kind is Kind.TIMER), key=due)
        others = [one for one in self.open if one.kind is not Kind.TIMER]
        chosen = self.random.choice([*others, *timers[:1]])
        self.open.remove(chosen)
        self.now_ms = max(self.now_ms + 1, due(chosen) if chosen.kind is Kind.TIMER else 0)
        self.records.append(self._settled(chosen))

    def _settled(self, chosen: Issued) -> Settled:
        if chosen.kind is Kind.TIMER:
            return Settled(chosen.id, self.now_ms)
        if chosen.id not in self.local:
            return Settled(chosen.id, self.now_ms, msgspec.json.encode(msgspec.json.decode(chosen.arguments)["value"]))
        try:
            return Settled(chosen.id, self.now_ms, asyncio.run(self._worked(chosen.id)))
        except Exception as problem:
            return Settled(chosen.id, self.now_ms, failure=Failure(int(ErrorCode.COMPONENT_FAILED), str(problem)), attempt=2)

    async def _worked(self, id: str) -> bytes:
        return await self.local[id]()


def due(timer: Issued) -> int:
    return int(msgspec.json.decode(timer.arguments).get("due_ms", 0))
