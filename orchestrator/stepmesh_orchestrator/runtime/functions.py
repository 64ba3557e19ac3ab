"""Turns of durable functions, as a worker sends them: each decided on in the shard's next turn, answered once all are journaled.

Invariant: one worker takes an activation further. A turn is a sign of life: it takes the lease of the activation, or is told that another
worker has it.
"""

from __future__ import annotations

import asyncio

from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Verdict
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.claims import claimed
from stepmesh_orchestrator.runtime.shard import Shard


async def take_turns(shard: Shard, message: FunctionTurns, clock: Clock) -> FunctionsTurned:
    """One answer per turn, in order. None where the shard could not take it: its journal is full, or it is being handed over."""
    now = clock.monotonic()
    return FunctionsTurned(await asyncio.gather(*(_take(shard, turn, message.worker, now) for turn in message.turns)))


async def _take(shard: Shard, turn: FunctionTurn, worker: WorkerId, now: float) -> FunctionTurned | None:
    if claimed(shard, turn.task, worker, now, running=True) is Verdict.HELD:
        return FunctionTurned(gone=True)
    return await shard.advance(turn)
