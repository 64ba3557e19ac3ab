"""Tasks that this gateway does not have in hand: signs of life and results of them are passed on to the shard that owns them.

So any gateway can take what any worker says, also one that was started a moment ago. This module must not know pools or seats.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from enum import Enum, auto

from stepmesh_broker.protocol.ids import Partition, WorkerId
from stepmesh_broker.protocol.messages import Progress, Result, Verdict
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.hands import Hands
from stepmesh_gateway.work.held import Held, without_frame

AGAIN_S = 0.5
"""Pause before a shard that did not answer is asked again, in seconds."""


class Completion(Enum):
    """What became of a result."""

    ACCEPTED = auto()  # durable at the broker
    GONE = auto()  # nobody waits for it: done, cancelled, superseded, unknown
    NOT_READY = auto()  # the partition recovers, or the broker is away: ask again


class Posts:
    """Calls that wait until the broker has their result."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Future[Completion]] = set()

    def expect(self) -> asyncio.Future[Completion]:
        """For one result."""
        posted: asyncio.Future[Completion] = self._loop.create_future()
        self._open.add(posted)
        return posted

    def arrived(self, posted: asyncio.Future[Completion], completion: Completion = Completion.ACCEPTED) -> None:
        """The broker has it."""
        if not posted.done():
            posted.set_result(completion)

    async def completion(self, posted: asyncio.Future[Completion]) -> Completion:
        """However long the broker is away: the result is on its way, and the worker has nothing better to do than wait."""
        try:
            return await posted
        finally:
            self._open.discard(posted)

    def give_up(self) -> None:
        """The gateway stops: whoever still waits is to ask another one."""
        for posted in self._open:
            self.arrived(posted, Completion.NOT_READY)


class Elsewhere:
    """`gateway`: in whose name a result is looked after whose worker is not known."""

    def __init__(self, hands: Hands, gateway: WorkerId, posts: Posts) -> None:
        self._hands = hands
        self._posts = posts
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()

    async def heartbeat(self, worker: WorkerId, task: TaskId, fraction: float | None, details: bytes | None) -> Verdict:
        """The shard's word on a task that `worker` says it runs."""
        answer = await self._hands.control.beat(task.partition, worker, [Progress(task.ref, fraction, details)])
        return Verdict.NOT_READY if answer is None else Verdict(answer.verdicts[0])

    async def claim(self, worker: WorkerId, tasks: list[TaskId]) -> list[Verdict]:
        """The same for tasks of one partition that a worker brought with it."""
        answer = await self._hands.control.claim(tasks[0].partition, worker, [task.ref for task in tasks], running=True)
        return [Verdict.NOT_READY] * len(tasks) if answer is None else [Verdict(verdict) for verdict in answer.verdicts]

    async def complete(self, task: TaskId, result: Result) -> Completion:
        """Post a result that the shard waits for."""
        answer = await self._hands.control.claim(task.partition, self._gateway, [task.ref], running=True)
        verdict = Verdict.NOT_READY if answer is None else answer.verdicts[0]
        if verdict == Verdict.NOT_READY:
            return Completion.NOT_READY
        if verdict in (Verdict.GONE, Verdict.CANCELLED):
            return Completion.GONE
        frame = without_frame(task, self._hands.namespace, self._loop.time())
        posted = self._posts.expect()
        self._hands.outbox.put(frame, self._hands.checked(None, result), lambda: self._posts.arrived(posted))
        return await self._posts.completion(posted)

    async def entrust(self, held: list[Held]) -> None:
        """Leave tasks to their worker, whose stream ended: each gets a lease of its own, if it has none, and is forgotten here. Until
        its shard answers it stays in hand."""
        waiting = held
        while waiting:
            places: defaultdict[tuple[WorkerId, Partition], list[Held]] = defaultdict(list)
            for one in waiting:
                if one.seat is not None and one.seat.gone and not one.settled:
                    places[one.holder, one.id.partition].append(one)
            waiting = []
            for (worker, partition), attempts in places.items():
                waiting += await self._entrust(worker, partition, attempts)
            if waiting:
                await asyncio.sleep(AGAIN_S)

    async def _entrust(self, worker: WorkerId, partition: Partition, attempts: list[Held]) -> list[Held]:
        """Those about which the shard said nothing."""
        seats = [one.seat for one in attempts]
        answer = await self._hands.control.beat(partition, worker, [Progress(one.id.ref, one.progress, one.details) for one in attempts])
        verdicts = [int(Verdict.NOT_READY)] * len(attempts) if answer is None else answer.verdicts
        still: list[Held] = []
        for one, seat, verdict in zip(attempts, seats, verdicts, strict=True):
            if one.settled or one.seat is not seat:
                continue
            if verdict == Verdict.NOT_READY:
                still.append(one)
            else:
                self._hands.forget(one)
        return still
