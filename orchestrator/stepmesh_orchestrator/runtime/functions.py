"""Turns of durable functions, as a worker sends them: each decided on in the shard's next turn, answered once all are journaled.

Invariant: one worker takes an activation further. A turn is a sign of life: it takes the lease of the activation, or is told that another
worker has it.
"""

from __future__ import annotations

import asyncio

from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import size_of
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Verdict
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.claims import claimed
from stepmesh_orchestrator.runtime.shard import Shard

ANSWER_BYTES = 512 * 1024
"""Records in one message of more than one answer."""


async def take_turns(shard: Shard, message: FunctionTurns, clock: Clock) -> FunctionsTurned:
    """One answer per turn, in order. None where the shard could not take it (its journal is full, or it is being handed over), or where
    the answers before it fill a message."""
    now = clock.monotonic()
    answers = await asyncio.gather(*(_take(shard, turn, message.worker, now) for turn in message.turns))
    return FunctionsTurned(_fitting(answers))


def _fitting(answers: list[FunctionTurned | None]) -> list[FunctionTurned | None]:
    """As many as fit one message; the first one always does. The others are asked for again, as their turns are known by then."""
    size, fitting = 0, list[FunctionTurned | None]()
    for answer in answers:
        size += 0 if answer is None or answer.records is None else sum(map(size_of, answer.records))
        fitting.append(answer if size <= ANSWER_BYTES or not any(fitting) else None)
    return fitting


async def _take(shard: Shard, turn: FunctionTurn, worker: WorkerId, now: float) -> FunctionTurned | None:
    if claimed(shard, turn.task, worker, now, running=True) is Verdict.HELD:
        return FunctionTurned(gone=True)
    return await shard.advance(turn)
