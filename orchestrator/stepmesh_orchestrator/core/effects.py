"""What the core wants done, as values. The runtime does it after the turn's frame is durable.

An effect may get lost in a crash; then it is derived again from the state (see rebuild.py). So each is idempotent
for its receiver. Tasks, the hot kind, are not here: the session collects them by pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.protocol.functions import FunctionTurned
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.letters import Letter
from stepmesh_broker.protocol.messages import Accepted, EventKept, Refused, TaskRef, UpdateTaken


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `FireTimer(task)` at `due_ms` (wall clock, ms since 1970), early never. Attempt 0: a wait of a durable function."""

    due_ms: int
    task: TaskRef


BY_NAME = b"\xff"
"""No id begins so, however odd: they are UTF-8."""


@dataclass(frozen=True, slots=True)
class NeedFlow:
    """Fetch the flow with this id, or store and compile this document, then send `ResolveFlow(key)`. After `BY_NAME` stand a name, `@` and
    a version."""

    key: bytes
    document: bytes | None


@dataclass(frozen=True, slots=True)
class LimitWait:
    """The task was handed to `pool` to be claimed or answered before `due_ms`, `waits_ms` after its dispatch: else give it up (TIMEOUT)."""

    due_ms: int
    task: TaskRef
    pool: str
    waits_ms: int


@dataclass(frozen=True, slots=True)
class StopTask:
    """Tell the worker that may hold it."""

    task: TaskRef


@dataclass(frozen=True, slots=True)
class NudgeTask:
    """Tell the worker that has the function that there are records for it."""

    task: TaskRef


@dataclass(frozen=True, slots=True)
class ParkTask:
    """Put the task into the dead-letter topic: it took down its workers until the budget was spent."""

    task: TaskRef
    step_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the command that is being decided."""

    answer: Accepted | Refused | FunctionTurned | EventKept | UpdateTaken


@dataclass(frozen=True, slots=True)
class RunOver:
    """A run ended: wake those who wait for it."""

    run: RunId


@dataclass(frozen=True, slots=True)
class TreeLeft:
    """A root run became dormant: its timers are void. Send `WakeTree` at `wakes_ms`, a little early rather than late."""

    root: RunId
    wakes_ms: int


@dataclass(frozen=True, slots=True)
class CallKeys:
    """Send `ServeKeys` for `key` at `due_ms`, and not when it was called for before: it may let somebody through then. "": the breakers."""

    due_ms: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Put a letter into the inbox of a partition, perhaps this one. It arrives at least once, in any order. After a recovery, what may not
    have left must be derived again: from the state (`rebuild`), or from the events after the confirmed frame (`Recovered`)."""

    partition: Partition
    letter: Letter


@dataclass(frozen=True, slots=True)
class SetScheduleTimer:
    """Send `FireSchedule(schedule)` at `due_ms`, early never; an earlier one for that schedule is void."""

    due_ms: int
    schedule: str


@dataclass(frozen=True, slots=True)
class WakeRun:
    """Bring a dormant run back soon, with its tree."""

    run: RunId


Effect = (
    Send | CallKeys | TreeLeft | SetTimer | LimitWait | NeedFlow | StopTask | NudgeTask | ParkTask | Answered | RunOver
    | SetScheduleTimer | WakeRun
)  # fmt: skip
