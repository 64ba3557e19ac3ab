"""A connected worker's place at the bridge, as its transport sees it."""

from __future__ import annotations

from typing import Protocol

from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Result
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.line import Offer


class Seat(Protocol):
    """Made by `Bridge.join`. All methods return at once."""

    @property
    def worker(self) -> WorkerId:
        """Whose place it is."""
        ...

    @property
    def in_hand(self) -> int:
        """Tasks that were sent here and are not over, or whose result is not durable yet. 0 after `leave`: the stream may end."""
        ...

    def allow(self, count: int) -> None:
        """Credit: that many more tasks may be sent; adds up."""
        ...

    def offer(self, offers: tuple[Offer, ...], capacity: int | None = None) -> None:
        """The worker tells (again) what it offers."""
        ...

    def claimed(self, task: TaskId) -> None:
        """A worker that claims has begun this task."""
        ...

    def progress(self, task: TaskId, fraction: float | None, details: bytes | None) -> None:
        """A sign of life of a task."""
        ...

    def finish(self, task: TaskId, result: Result) -> None:
        """The task ended. `Line.recorded` tells when that is durable; also for tasks that this gateway never saw."""
        ...

    def give_back(self, task: TaskId) -> None:
        """The worker will not begin this task: back to the queue."""
        ...

    def leave(self) -> None:
        """Send nothing more; what runs is finished."""
        ...

    def lost(self) -> None:
        """The stream ended. Unclaimed tasks go back to the queue at once; claimed ones stay leased as long as the worker is heard of.
        Idempotent; nothing is called on the line from now on."""
        ...
