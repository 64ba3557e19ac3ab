"""What a worker still works on when it connects again: kept for it, or told to stop.

Invariant: no verdict, no consequence: a task whose shard does not answer is asked after again. It must not know pools.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from stepmesh.leases import DROPPED
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Verdict
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.elsewhere import AGAIN_S, Elsewhere
from stepmesh_gateway.work.hands import Hands
from stepmesh_gateway.work.seat import Seat


class Brought:
    """Of one gateway."""

    def __init__(self, hands: Hands, elsewhere: Elsewhere) -> None:
        self._hands = hands
        self._elsewhere = elsewhere

    async def bring(self, seat: Seat, running: tuple[TaskId, ...]) -> None:
        """Returns when the shard of each task has spoken, or the stream ended."""
        places: defaultdict[Partition, list[TaskId]] = defaultdict(list)
        for task in running:
            if not self._moved(seat, task):
                places[task.partition].append(task)
        while places and not seat.gone:
            for partition, tasks in [*places.items()]:
                verdicts = await self._elsewhere.claim(seat.worker, tasks)
                for task, verdict in zip(tasks, verdicts, strict=True):
                    self._brought(seat, task, verdict)
                places[partition] = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is Verdict.NOT_READY]
            places = defaultdict(list, {partition: tasks for partition, tasks in places.items() if tasks})
            if places:
                await asyncio.sleep(AGAIN_S)

    def _moved(self, seat: Seat, task: TaskId) -> bool:
        """Whether the task is in this gateway's hands anyway: from the stream that the worker had before, or on its way to somebody."""
        held = self._hands.by_ref.get(task.ref)
        if held is None:
            return False
        if held.seat is not None and held.seat.worker != seat.worker:
            seat.line.stop(task, DROPPED[Verdict.HELD])
        elif held.seat is not seat:
            if held.seat is not None:
                held.seat.unsent(held)
            self._hands.give(held, seat)
        return True

    def _brought(self, seat: Seat, task: TaskId, verdict: Verdict) -> None:
        if seat.gone:
            return
        if verdict in DROPPED:
            seat.line.stop(task, DROPPED[verdict])
        elif verdict is Verdict.GRANTED and task.ref not in self._hands.by_ref:
            self._hands.give(self._hands.adopt(task), seat)
