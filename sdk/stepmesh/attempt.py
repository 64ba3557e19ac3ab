"""The worker's records: a task frame that it holds, and one attempt of that frame.

Invariant: a frame is settled (acknowledged or handed back) once each of its attempts is. These are plain records: the rules
that change them are in execution.py, leases.py and outbox.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from stepmesh_broker.ports import Delivery
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Task, TaskFrame, TaskRef

if TYPE_CHECKING:
    from stepmesh.component import Component


class Why(Enum):
    """Why an attempt was told to stop, which decides what its end means."""

    TIMEOUT = auto()  # the result is a TIMEOUT failure
    CANCELLED = auto()  # the run does not want it any more: no result
    ELSEWHERE = auto()  # gone, or another worker holds it: no result
    LEAVING = auto()  # this worker stops: the frame is handed back
    SILENT = auto()  # it gave no sign of life: the result is a TIMEOUT failure
    IDLE = auto()  # a durable function that waits for others: no result yet


KEPT_S = 4.0
"""A frame whose ack wait (6 s) was not restarted for this long may be with another worker by now, in seconds: this process was stopped,
or its event loop was blocked. It is well above the time between two restarts."""


class Handed:
    """A `Delivery` of a frame that an orchestrator gave to this worker itself: no broker waits for its end."""

    deliveries = 1

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def ack(self) -> None:
        """Nobody needs to know."""

    async def in_progress(self) -> None:
        """The lease is kept by heartbeats."""

    async def nak(self, delay_s: float = 0.0) -> None:
        """It is sent again when its lease ends."""


class Frame:
    """A delivery that this worker holds. `left`: attempts not settled yet. `touched`: loop time of the last sign of life; `kept`: of the
    last one that came in time."""

    __slots__ = ("delivery", "hand_back", "header", "kept", "left", "touched")

    def __init__(self, delivery: Delivery, header: TaskFrame, now: float) -> None:
        self.delivery = delivery
        self.header = header
        self.left = len(header.tasks)
        self.hand_back = False
        self.touched = now
        self.kept = now

    def keep(self, now: float) -> None:
        """A sign of life went out. One that comes too late does not make up for the silence before it."""
        if not self.in_doubt(now):
            self.kept = now

    def in_doubt(self, now: float) -> bool:
        """Whether another worker may have the frame: what has not started is claimed first."""
        return now - self.kept > KEPT_S


class Attempt:
    """One task in this worker's hands, from its frame's arrival until its result is handed over or dropped.

    Times ending in `_at` are loop times in seconds. `lease_s` is 0 without a lease.
    """

    __slots__ = (
        "asked",
        "blocked",
        "captured",
        "children",
        "claim_first",
        "component",
        "details",
        "frame",
        "heard_at",
        "holds_slot",
        "lease_s",
        "listener",
        "live",
        "news",
        "parked",
        "progress",
        "renew_at",
        "runner",
        "settled",
        "started_at",
        "started_ns",
        "started_us",
        "stopped",
        "task",
        "timer",
        "token",
        "why",
    )

    def __init__(self, task: Task, frame: Frame, claim_first: bool) -> None:
        self.task = task
        self.frame = frame
        self.claim_first = claim_first
        self.why: Why | None = None
        self.settled = False
        self.live = False  # it suspended, or runs in a thread
        self.holds_slot = False
        self.parked = 0  # waits for sub-runs, each of which needs no slot
        self.children = 0  # sub-runs started so far: the next one's key
        self.lease_s = 0.0
        self.asked = 0  # claims without an answer so far
        self.progress: float | None = None
        self.details: bytes | None = None
        self.started_us = 0
        self.started_ns = 0
        self.started_at = 0.0
        self.renew_at = 0.0
        self.heard_at = 0.0  # its last sign of life, if it has to give any
        self.listener: asyncio.TimerHandle | None = None
        self.component: Component | None = None
        self.captured: dict[str, str] | None = None  # parameters that the component's own path has
        self.runner: asyncio.Task[None] | None = None  # the asyncio task that the component's coroutine became
        self.timer: asyncio.TimerHandle | None = None
        self.stopped: asyncio.Event | None = None
        self.blocked: set[Callable[[], Any]] | None = None  # cancels what a thread waits for
        self.token: object = None  # what the instrument gave
        self.news: asyncio.Event | None = None  # of a durable function: there may be records for it

    def ref(self) -> TaskRef:
        """The attempt's name on the wire."""
        task = self.task
        return TaskRef(task.run, task.item, task.step, task.attempt)

    @property
    def root(self) -> RunId:
        """Root run id of the run tree."""
        return RunId(self.task.root) if self.task.root else self.task.run

    def limit_s(self) -> float | None:
        """Seconds that the attempt may take: the step's limit or the component's, whichever is less; None = no limit."""
        own = self.component.timeout_s if self.component is not None else None
        step = self.task.timeout_ms / 1000 if self.task.timeout_ms else None
        return min(own, step) if own is not None and step is not None else step if own is None else own
