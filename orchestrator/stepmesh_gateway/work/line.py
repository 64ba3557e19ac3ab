"""What a connected worker is to the bridge: who it is, the line to it, and what it is sent.

Pure values and one protocol; a transport (stepflow.v1 PullTasks, stepmesh.v1 Work) implements `Line` and holds a `Seat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stepmesh.attempt import Why
from stepmesh_broker.protocol.ids import Pool, WorkerId
from stepmesh_broker.protocol.messages import Task
from stepmesh_gateway.identity import TaskId


class Offer(NamedTuple):
    """A component that a worker offers. `path` may hold `{name}` and a last `{*rest}`; `name` is what the worker wants it to be called
    in a task (stepflow.v1: component_id; stepmesh.v1: the path itself). Schemas are JSON Schema as JSON text. `function`: it is a durable
    function, which tells its turns itself; `version`: of its code."""

    path: str
    name: str
    description: str = ""
    input_schema: bytes | None = None
    output_schema: bytes | None = None
    function: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """Who joins. `offers` None: not known yet. `running`: what it still works on after a reconnect.

    `claims`: a worker of stepflow.v1. It says itself when it begins a task (its first heartbeat, `Seat.claimed`) and gets one task more
    than it has begun, so the bridge allows it one task at a time; it knows no time limits, so the bridge enforces them.
    Any other worker runs what it is sent and enforces `Task.timeout_ms` itself; the bridge claims on its behalf.

    `queue`: no worker but a queue, from which many take; implies `claims`. Whoever begins a task says so under an id of its own. What
    waits there waits as long as it takes, and comes back by `Seat.give_back` only; a task of which nothing is heard for `silent_s` is
    lost, because no stream tells that its worker lives. `message_bytes`: the largest message that its line takes, where it offers
    durable functions.
    """

    worker: WorkerId
    pool: Pool
    capacity: int = 1
    version: str = ""
    offers: tuple[Offer, ...] | None = None
    exclusive: bool = False
    claims: bool = False
    queue: bool = False
    silent_s: float = 0.0
    running: tuple[TaskId, ...] = ()
    message_bytes: int = 0


class Assigned(NamedTuple):
    """A task for a worker. `component` is the name in the matching `Offer`; `path_params` are the route's and the pattern's.
    `id` as text (`str`) is what the worker is told and sends back. `function`: what it offered is a durable function; `fresh`: nobody
    else had the task, as far as is known."""

    id: TaskId
    task: Task
    component: str
    path_params: dict[str, str]
    function: bool = False
    fresh: bool = False


class Line(Protocol):
    """The way to a worker. No method blocks or raises; each may be called at any time until the seat is `lost`, also from inside a
    call of the seat. What a line has not sent yet is bounded by the credit that it allowed."""

    def send(self, assigned: Sequence[Assigned]) -> None:
        """Pass these on. One that cannot be is ended with `Seat.refuse`, later."""
        ...

    def stop(self, task: TaskId, why: Why) -> None:
        """The worker should end this; nobody wants its result (TIMEOUT: the bridge has recorded it; CANCELLED; ELSEWHERE)."""
        ...

    def news(self, task: TaskId) -> None:
        """There may be records for this durable function; of a worker that offers some."""
        ...

    def ask(self, number: int, question: bytes) -> None:
        """Pass a question to a durable function on; `Seat.answer` has the number again. Of a worker that offers some."""
        ...

    def recorded(self, tasks: Sequence[TaskId]) -> None:
        """The results of these, given to `Seat.finish`, are durable, or nobody wants them: the worker may forget them."""
        ...

    def drain(self) -> None:
        """The gateway goes away: no more tasks come. Results are taken until the drain time is over, then the stream is ended."""
        ...
