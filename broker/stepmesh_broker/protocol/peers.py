"""What orchestrators of a cluster ask each other, beside the requests of clients that they pass on.

Same encoding as api.py. A request goes to the owner of one partition and is about what that process owns.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.api import ApiRequest, RunSummary
from stepmesh_broker.protocol.ids import FlowId, Pool, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.schedules import Schedules


class Settle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="settle"):
    """Let the read model show all that is journaled now. Answer: `Settled`."""


class Settled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="settled"):
    """It does, or it cannot be written."""


class Refresh(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="refresh"):
    """How are these runs by now? Answer: `Refreshed`."""

    runs: list[RunId]


class Refreshed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="refreshed"):
    """Those of them that are live."""

    runs: list[RunSummary]


class CountTasks(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="count_tasks"):
    """How many attempts are in flight for this partition? Answer: `TaskCounts`."""


class TaskCounts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="task_counts"):
    """By pool: those that nobody claimed, and those that a worker holds. `expected`: pools that have work, whoever has it. `waiting_ms`:
    how long the oldest task of each of them waits."""

    queued: dict[Pool, int]
    held: dict[Pool, int]
    expected: list[Pool]
    waiting_ms: dict[Pool, int]
    breakers: dict[Pool, str] = {}  # what is said of components that are left alone


class FindFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="find_flow"):
    """Does a run of this partition use the flow, or is about to? `forget`: have it at hand no more. Answer: `FlowFound`."""

    flow: FlowId
    forget: bool = False


class FlowFound(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="flow_found"):
    """Whether one does."""

    used: bool


class TellSchedules(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tell_schedules"):
    """Which schedules of this partition have an id above `after`? Answer: `SchedulesTold`."""

    after: str
    limit: int


class SchedulesTold(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="schedules_told"):
    """The first of them, by id."""

    page: Schedules


PeerRequest = ApiRequest | Settle | Refresh | CountTasks | FindFlow | TellSchedules
PeerAnswer = Settled | Refreshed | TaskCounts | FlowFound | SchedulesTold | Refused
