"""What workers say of a task in single calls (stepflow.v1): claims, signs of life, results, sub-runs.

Invariant: every gateway understands all of it. What is in hand here is answered from here, unless somebody else may have it too;
all else by the shard that owns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from stepmesh.leases import DROPPED
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Result, TaskRef, Verdict
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.elsewhere import Completion, Elsewhere, Posts
from stepmesh_gateway.work.hands import Hands
from stepmesh_gateway.work.held import Held
from stepmesh_gateway.work.seat import Seat

CLAIM_S = 8.0
"""How long a worker's claim waits for a shard that recovers, in seconds; then the task goes back to the queue."""


class Calls:
    """`seats_of`: the streams of a worker at this gateway."""

    def __init__(self, hands: Hands, elsewhere: Elsewhere, posts: Posts, seats_of: Callable[[WorkerId], Sequence[Seat]]) -> None:
        self._hands = hands
        self._elsewhere = elsewhere
        self._posts = posts
        self._seats_of = seats_of
        self._loop = asyncio.get_running_loop()

    async def heartbeat(self, worker: WorkerId, task: TaskId, fraction: float | None = None, details: bytes | None = None) -> Verdict:
        """A unary sign of life, also of a task that this gateway never saw; the first one is the claim of a worker that claims."""
        held = self._hands.by_ref.get(task.ref)
        seats = self._seats_of(worker)
        if held is not None and held.seat is not None and held.is_with(worker, task.copy):
            seats = (held.seat,)
            held.by = worker if held.seat.hello.queue else None
            held.seat.heard(held, fraction, details)
            verdict = Verdict.GRANTED if held.started_at else await self._claim(held, held.seat)
        elif held is not None and held.started_at:
            verdict = Verdict.HELD
        else:
            verdict = await self._elsewhere.heartbeat(worker, task, fraction, details)
            if verdict is Verdict.GRANTED:
                self._theirs(worker, task)
        for seat in seats:
            seat.reacted(task)
        return verdict

    def _theirs(self, worker: WorkerId, task: TaskId) -> None:
        """The shard says that `worker` runs this: no copy of it is given to anybody. If its stream is here, its lease is kept from here."""
        held = self._hands.by_ref.get(task.ref)
        if held is not None:
            if held.started_at:
                return
            self._hands.stop(held, DROPPED[Verdict.HELD])
        seat = next((seat for seat in self._seats_of(worker) if seat.hello.claims and not seat.leaving), None)
        if seat is not None:
            self._hands.give(self._hands.adopt(task), seat)

    async def complete(self, task: TaskId, result: Result) -> Completion:
        """A unary result, also of a task that this gateway never saw. Returns when it is durable."""
        held = self._hands.by_ref.get(task.ref)
        if held is None:
            return await self._elsewhere.complete(task, result)
        seat = held.seat
        posted = self._posts.expect()
        self._hands.end(held, result, lambda: self._posts.arrived(posted))
        if seat is not None:
            seat.reacted(task)
            if held.id.copy != task.copy:
                seat.stopped(held, DROPPED[Verdict.HELD])
        return await self._posts.completion(posted)

    def children(self, task: TaskRef, content: str) -> int:
        """How often the attempt has started a sub-run with this content by now, this time included."""
        held = self._hands.by_ref.get(task)
        if held is None:
            return 1
        counts = held.children = held.children or {}
        counts[content] = counts.get(content, 0) + 1
        return counts[content]

    async def _claim(self, held: Held, seat: Seat) -> Verdict:
        """The worker that was sent it begins it, with its shard's leave if somebody else may have it too."""
        verdict = Verdict.GRANTED
        if held.claim_first or held.frame.in_doubt(self._loop.time()):
            seat.reacted(held.id)  # from here on nobody takes it back
            verdict = await self._ask(held, seat)
        if held.settled or held.seat is not seat:
            return Verdict.HELD
        if held.started_at:  # by the same question, asked twice
            return Verdict.GRANTED
        if verdict in DROPPED:
            self._hands.stop(held, DROPPED[verdict])
        elif verdict is Verdict.GRANTED and held.desk is not None:
            held.desk.begin(held)
        elif held.desk is not None:
            seat.unsent(held)
            held.desk.put_back(held)
            verdict = Verdict.HELD
        return verdict

    async def _ask(self, held: Held, seat: Seat) -> Verdict:
        until, pause = self._loop.time() + CLAIM_S, 0.05
        while not held.settled and held.seat is seat:
            answer = await self._hands.control.claim(held.id.partition, held.holder, [held.id.ref])
            verdict = Verdict.NOT_READY if answer is None else Verdict(answer.verdicts[0])
            if verdict is Verdict.GRANTED and answer is not None:
                held.claim_first = False
                self._hands.leases.lease(held, answer.lease_ms)
            if verdict is not Verdict.NOT_READY or self._loop.time() > until:
                return verdict
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        return Verdict.HELD
