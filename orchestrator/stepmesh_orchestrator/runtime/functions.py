"""Turns of durable functions, as a worker sends them: each decided on in the shard's next turn, answered once all are journaled.

Invariant: one worker takes an activation further. A turn is a sign of life: it takes the lease of the activation, or is told that another
worker has it.
"""

from __future__ import annotations

import asyncio
import sys

from msgspec.structs import replace

from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Record, Settled, UpdateAsked, size_of
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Verdict
from stepmesh_orchestrator.core.commands import FailAttempt
from stepmesh_orchestrator.core.decide.stale import refused
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.builds import Place, hand_over, home_of
from stepmesh_orchestrator.runtime.claims import claimed
from stepmesh_orchestrator.runtime.shard import Shard

ANSWER_BYTES = 512 * 1024
"""Records in one message of more than one answer."""
OVERHEAD_BYTES = 1024
"""Of an answer, beside its largest record."""
_HERE = FunctionTurned()


async def take_turns(shard: Shard, message: FunctionTurns, clock: Clock) -> FunctionsTurned:
    """One answer per turn, in order. None where the shard could not take it (its journal is full, or it is being handed over), or where
    the answers before it fill a message."""
    now = clock.monotonic()
    limit = min(shard.dispatcher.broker.max_message_bytes, message.answer_bytes or sys.maxsize) - OVERHEAD_BYTES
    answers = await asyncio.gather(*(_take(shard, turn, message.worker, now, limit) for turn in message.turns))
    return FunctionsTurned(_fitting(answers, min(limit, ANSWER_BYTES)))


def _fitting(answers: list[FunctionTurned | None], limit: int) -> list[FunctionTurned | None]:
    """As many as fit one message; the first one always does. The others are asked for again, as their turns are known by then."""
    size, fitting = 0, list[FunctionTurned | None]()
    for answer in answers:
        size += 0 if answer is None or answer.records is None else sum(map(size_of, answer.records))
        fitting.append(answer if size <= limit or not any(fitting) else None)
    return fitting


async def _take(shard: Shard, turn: FunctionTurn, worker: WorkerId, now: float, limit: int) -> FunctionTurned | None:
    if not turn.number and turn.version and (placed := _placed(shard, turn, worker)) is not _HERE:
        return placed
    if claimed(shard, turn.task, worker, now, running=True) is Verdict.HELD:
        holder = shard.dispatcher.leases.held[turn.task.run, turn.task.item, turn.task.step].worker
        return refused(shard.session, turn, f"worker {holder} has this activation")
    answer = await shard.advance(turn)
    large = next((record for record in (answer and answer.records) or () if size_of(record) > limit), None)
    if large is None:
        return answer if answer is None or answer.records is None else _page(answer, answer.records, limit)
    failure = _too_large(large, limit)
    shard.post(FailAttempt(turn.task, failure))
    return refused(shard.session, turn, failure.message)


def _page(answer: FunctionTurned, records: list[Record], limit: int) -> FunctionTurned:
    """With as many of its records as one message carries."""
    size = 0
    for index, record in enumerate(records):
        size += size_of(record)
        if size > limit:
            return replace(answer, records=records[:index], more=True)
    return answer


def _placed(shard: Shard, turn: FunctionTurn, worker: WorkerId) -> FunctionTurned | None:
    """`_HERE` when the worker is to go on; what it is answered when another one is, which is handed the task; None: it is to ask again."""
    task = turn.task
    lease = shard.dispatcher.leases.held.get((task.run, task.item, task.step))
    if lease is not None and lease.worker != worker:
        return _HERE  # its lease is looked at next
    home = home_of(shard.session, shard.dispatcher.presence, turn, worker)
    if isinstance(home, Place):
        return _HERE if home is Place.HERE else None
    if not hand_over(shard.session, shard.dispatcher, task, home):
        return _HERE
    return refused(shard.session, turn, f"worker {home} has the code that the run belongs to, and gets it")


def _too_large(record: Record, limit: int) -> Failure:
    """No answer can ever carry it, and the function cannot go on without it."""
    name = record.id if isinstance(record, Settled | UpdateAsked) else "a command"
    text = f"what came of {name} has {size_of(record)} bytes, and no message to a worker carries more than {limit}: pass blobs"
    return Failure(ErrorCode.INVALID_INPUT, text)
