"""Between the pools of the broker and connected workers: takes task frames while somebody has room, spreads them, keeps their leases,
brings results home."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Result, Verdict
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.line import Line, WorkerHello
from stepmesh_gateway.work.seat import Seat


class Completion(Enum):
    """What became of a result that came by a unary call."""

    ACCEPTED = auto()  # durable at the broker
    GONE = auto()  # nobody waits for it: done, cancelled, superseded, unknown
    NOT_READY = auto()  # the partition recovers, or the broker is away: ask again


class Bridge(Protocol):
    """One per gateway."""

    async def join(self, hello: WorkerHello, line: Line) -> Seat:
        """A worker's stream is there. Raises `TooManyStreams`, `GatewayStops`, `BrokerUnavailable`."""
        ...

    async def heartbeat(self, worker: WorkerId, task: TaskId, fraction: float | None = None, details: bytes | None = None) -> Verdict:
        """A unary sign of life, also of a task that this gateway never saw; the first one is the claim of a worker that claims."""
        ...

    async def complete(self, task: TaskId, result: Result) -> Completion:
        """A unary result, also of a task that this gateway never saw. Returns when it is durable."""
        ...

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take nothing more, let claimed tasks end within `grace_s`, hand back the rest."""
        ...
