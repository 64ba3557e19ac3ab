"""The gateway's records of what it has in hand: one attempt, and the frame that it came in.

Plain records; the rules that change them are in hands.py, desk.py and seat.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stepmesh.attempt import Frame, Why
from stepmesh_broker.protocol.ids import Namespace, Pool, WorkerId
from stepmesh_broker.protocol.messages import FORMAT, Task, TaskFrame, TaskRef
from stepmesh_gateway.identity import TaskId

if TYPE_CHECKING:
    from stepmesh_gateway.work.desk import Desk
    from stepmesh_gateway.work.seat import Seat


class Held:
    """One attempt, from its frame's arrival (or its worker's) until its result is handed over or it is given back.

    `desk`: its pool's, None for what a worker brought. `seat`: who has it, None while it waits for one; `by`: who took it from there, if
    that is a queue. `sent`: the worker was told of it; `started_at`: and began it. Times ending in `_at` are loop times in seconds, 0 for
    never. `fresh`: nobody else had it, as far as this gateway can tell. `task` is None for one of which only the id came here. `children`:
    how often a sub-run with this content was started by the attempt.
    """

    __slots__ = (
        "asked", "by", "children", "claim_first", "desk", "details", "frame", "fresh", "heard_at", "id", "lease_s", "progress", "ready_at",
        "renew_at", "seat", "sent", "settled", "started_at", "started_us", "task", "timer", "why",
    )  # fmt: skip

    def __init__(self, id: TaskId, frame: Frame, task: Task | None, claim_first: bool, now: float) -> None:
        self.id = id
        self.frame = frame
        self.task = task
        self.claim_first = claim_first
        self.fresh = task is not None and task.dispatch == 1 and not claim_first
        self.ready_at = now
        self.desk: Desk | None = None
        self.seat: Seat | None = None
        self.by: WorkerId | None = None
        self.sent = False
        self.settled = False
        self.why: Why | None = None
        self.asked = 0
        self.lease_s = 0.0
        self.renew_at = 0.0
        self.started_at = 0.0
        self.started_us = 0
        self.heard_at = 0.0
        self.progress: float | None = None
        self.details: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.children: dict[str, int] | None = None

    @property
    def holder(self) -> WorkerId:
        """In whose name it is claimed."""
        assert self.seat is not None, "only what a worker has is claimed"
        return self.by or self.seat.worker

    def is_with(self, worker: WorkerId, copy: int) -> bool:
        """Whether this worker was sent this copy, or may have taken it from a queue."""
        seat = self.seat
        if seat is None or self.id.copy != copy:
            return False
        return self.by in (None, worker) if seat.hello.queue else seat.worker == worker

    def ref(self) -> TaskRef:
        """The attempt's name on the wire."""
        return self.id.ref


class _Nowhere:
    """The delivery of what came here without a frame: nobody is to be told."""

    data = b""
    deliveries = 1

    async def ack(self) -> None:
        pass

    async def in_progress(self) -> None:
        pass

    async def nak(self, delay_s: float = 0.0) -> None:
        pass


def without_frame(task: TaskId, namespace: Namespace, now: float) -> Frame:
    """A frame for one attempt that came here by its id alone."""
    frame = Frame(_Nowhere(), TaskFrame(FORMAT, namespace, Pool(""), task.partition, 0, task.journal, []), now)
    frame.left = 1
    return frame
