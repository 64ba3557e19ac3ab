"""Schedules: what starts runs by the time, and what may be asked of one.

Same encoding as api.py, which joins these messages to its unions. A schedule lives on the partition that its name hashes to, and so do
its runs. Times are ms since 1970. It must not know how cron or time zones are read.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId, partition_of

OVERLAPS = ("skip", "buffer_one", "allow", "cancel_other")
"""What becomes of a due time while a run of the schedule lives: nothing; it waits, one at most; it runs beside; it ends the others."""
CATCH_UPS = ("one", "all", "none")
"""Which due times that nobody met in time are made up for: the last; the last `catch_up_max`; none."""


class Schedule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The definition. One of `cron` (five fields, in `time_zone`) and `every_ms` (from `anchor_ms` on, or from its making).

    `jitter_ms`: a run starts up to so much later. `catch_up_window_ms`: what is older is not made up for; 0 = no limit. `until_ms`: no due
    time is later. `max_runs`: due times that it meets at most; 0 = no limit. `input`, `variables` (an object) are JSON.
    """

    id: str
    flow: FlowId
    input: bytes = b"null"
    cron: str = ""
    every_ms: int = 0
    anchor_ms: int | None = None
    time_zone: str = "UTC"
    overlap: str = "skip"
    catch_up: str = "one"
    catch_up_max: int = 100
    catch_up_window_ms: int = 0
    jitter_ms: int = 0
    until_ms: int | None = None
    max_runs: int = 0
    paused: bool = False
    variables: bytes | None = None
    max_concurrency: int | None = None
    tags: dict[str, str] | None = None


class PutSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="put_schedule"):
    """Answer: `ScheduleInfo`, or `Refused`: SM-5241 for one that exists and is another, unless `replace`."""

    schedule: Schedule
    replace: bool = False


class GetSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get_schedule"):
    """Answer: `ScheduleInfo` with so many due times to come, or `Refused` SM-5240."""

    id: str
    due_times: int = 5


class ListSchedules(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_schedules"):
    """Answer: `Schedules` with an id above `after`, by id."""

    after: str = ""
    limit: int = 100


class DeleteSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete_schedule"):
    """Its runs go on. Answer: `Deleted`, or `Refused` SM-5240."""

    id: str


class PauseSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="pause_schedule"):
    """Start nothing from now on. Answer: `ScheduleInfo`, or `Refused` SM-5240."""

    id: str


class ResumeSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="resume_schedule"):
    """Go on with what is due from now on. Answer: `ScheduleInfo`, or `Refused` SM-5240."""

    id: str


class TriggerSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="trigger_schedule"):
    """Start a run now, whatever else runs. `run`: its id, which must live on the schedule's partition. Answer: `ScheduleStarted`."""

    id: str
    run: RunId


class BackfillSchedule(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="backfill_schedule"):
    """Start a run for each due time from `from_ms` to `to_ms`, both included, at once. The same `key` gives the same runs.
    Answer: `ScheduleStarted`."""

    id: str
    from_ms: int
    to_ms: int
    key: str


class ScheduleInfo(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="schedule_info"):
    """`status`: active, paused, finished, or blocked (then `skipped_reason` says why). `next_ms`: due times to come, without jitter; of a
    paused one those that would if it were resumed now. `fired`, `skipped`: due times that were met or
    not (one gap counts 1,000 at most if it is cron's). `live`: its runs that have not ended. `waiting_ms`: the due time that waits for
    their end. In a list `input` and `variables` of the definition are left out."""

    schedule: Schedule
    status: str
    created_ms: int
    next_ms: list[int]
    fired: int
    skipped: int
    live: list[RunId]
    waiting_ms: int | None = None
    last_due_ms: int | None = None
    last_run: RunId | None = None
    skipped_due_ms: int | None = None
    skipped_reason: str = ""


class Schedules(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="schedules"):
    """`more`: the page is full; go on behind its last id."""

    schedules: list[ScheduleInfo]
    more: bool = False


class ScheduleStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="schedule_started"):
    """The runs, in the order of their due times."""

    runs: list[RunId]


ScheduleRequest = (
    PutSchedule | GetSchedule | ListSchedules | DeleteSchedule | PauseSchedule | ResumeSchedule | TriggerSchedule | BackfillSchedule
)
ScheduleAnswer = ScheduleInfo | Schedules | ScheduleStarted


def home_of(namespace: Namespace, schedule: str, partitions: int) -> Partition:
    """The partition on which a schedule and its runs live."""
    return partition_of(f"{namespace}/{schedule}", partitions)
