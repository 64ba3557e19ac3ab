"""Schedules as their owner holds them: made, looked at, paused, triggered, filled, deleted.

Only asks; what a definition may say is the orchestrator's to judge. A time without an offset is refused here, since nobody could tell
which moment it means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, Unpack
from uuid import uuid4

from stepmesh import payloads
from stepmesh.documents import FlowLike
from stepmesh.durable.durations import Duration, seconds
from stepmesh.requests import Requests
from stepmesh.runs import RunHandle
from stepmesh.uuid7 import new_run_id_on
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.api import Deleted
from stepmesh_broker.protocol.ids import FlowId, scheduled_run_id
from stepmesh_broker.protocol.schedules import (
    BackfillSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    PutSchedule,
    ResumeSchedule,
    Schedule,
    ScheduleInfo,
    Schedules,
    ScheduleStarted,
    TriggerSchedule,
    home_of,
)

Moment = datetime | str
"""With an offset: a datetime, or text like `2026-11-21T19:40:03Z`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadMoment(StepmeshError):
    """It cannot be read, or has no offset."""

    default_code = "SM-5255"


class Definition(TypedDict, total=False):
    """When a schedule is due, and what its runs are like. One of `cron` (five fields) and `every`; see docs/schedules.md."""

    cron: str
    every: Duration
    time_zone: str
    anchor: Moment
    overlap: Literal["skip", "buffer_one", "allow", "cancel_other"]
    catch_up: Literal["one", "all", "none"]
    catch_up_max: int
    catch_up_window: Duration
    jitter: Duration
    until: Moment
    max_runs: int
    paused: bool
    variables: Mapping[str, Any]
    max_concurrency: int
    tags: Mapping[str, str]


class ScheduleClient:
    """`client.schedules`."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def create(
        self, schedule: str, flow: FlowLike, input: Any = None, *, replace: bool = False, **definition: Unpack[Definition]
    ) -> ScheduleInfo:
        """Make a schedule; one that is there just so stays. `replace`: change one that is there otherwise. The flow is stored first.
        Raises `RequestRefused`: SM-5241 for another one of that id, SM-5250 to SM-5252 for what cannot be."""
        return await self.put(defined(schedule, await self._requests.flow_id(flow), input, definition), replace=replace)

    async def put(self, schedule: Schedule, *, replace: bool = False) -> ScheduleInfo:
        """`create` for a definition as it travels, whose flow is stored."""
        return await self._requests.ask(PutSchedule(schedule, replace), ScheduleInfo)

    async def get(self, schedule: str, due_times: int = 5) -> ScheduleInfo:
        """One schedule with the due times to come. Raises `RequestRefused` (SM-5240)."""
        return await self._requests.ask(GetSchedule(schedule, due_times), ScheduleInfo)

    async def list(self) -> AsyncIterator[ScheduleInfo]:
        """All schedules by id, without their inputs and variables."""
        after, more = "", True
        while more:
            page = await self.page(after)
            for one in page.schedules:
                yield one
                after = one.schedule.id
            more = page.more and bool(page.schedules)

    async def page(self, after: str = "", limit: int = 100) -> Schedules:
        """The first of those with an id above `after`."""
        return await self._requests.ask(ListSchedules(after, limit), Schedules)

    async def pause(self, schedule: str) -> ScheduleInfo:
        """Nothing starts by its times until it is resumed. Raises `RequestRefused` (SM-5240)."""
        return await self._requests.ask(PauseSchedule(schedule), ScheduleInfo)

    async def resume(self, schedule: str) -> ScheduleInfo:
        """What was due meanwhile is not made up for; `backfill` does that. Raises `RequestRefused` (SM-5240)."""
        return await self._requests.ask(ResumeSchedule(schedule), ScheduleInfo)

    async def trigger(self, schedule: str, key: str | None = None) -> RunHandle:
        """Start a run now, whatever else runs. The same `key` gives the same run. Raises `RequestRefused` (SM-5240)."""
        namespace, partitions = self._requests.namespace, (await self._requests.info()).partitions
        home = home_of(namespace, schedule, partitions)
        about = f"{namespace}/{schedule}/trigger/{key}"
        run = new_run_id_on(home, partitions) if key is None else scheduled_run_id(about, 0, home, partitions)
        started = await self._requests.ask(TriggerSchedule(schedule, run), ScheduleStarted)
        return RunHandle(self._requests, started.runs[0])

    async def backfill(self, schedule: str, start: Moment, end: Moment, key: str | None = None) -> Sequence[RunHandle]:
        """Start a run for each due time from `start` to `end`, both included, at once; also for those that ran already. The same `key`
        gives the same runs. Raises `RequestRefused` (SM-5240, SM-5244)."""
        request = BackfillSchedule(schedule, moment_ms(start), moment_ms(end), key or uuid4().hex)
        return [RunHandle(self._requests, run) for run in (await self._requests.ask(request, ScheduleStarted)).runs]

    async def delete(self, schedule: str) -> None:
        """Its runs go on. Raises `RequestRefused` (SM-5240)."""
        await self._requests.ask(DeleteSchedule(schedule), Deleted)


def defined(schedule: str, flow: FlowId, input: Any, definition: Definition) -> Schedule:
    """As the orchestrator reads it. Raises `BadMoment`, `BadDuration`."""
    fields: dict[str, Any] = dict(definition)
    for name in ("every", "catch_up_window", "jitter"):
        if name in fields:
            fields[f"{name}_ms"] = round(seconds(fields.pop(name)) * 1000)
    for name in ("anchor", "until"):
        if name in fields:
            fields[f"{name}_ms"] = moment_ms(fields.pop(name))
    if "variables" in fields:
        fields["variables"] = payloads.write(fields["variables"])
    if "tags" in fields:
        fields["tags"] = dict(fields["tags"])
    return Schedule(schedule, flow, payloads.write(input), **fields)


def moment_ms(moment: Moment) -> int:
    """Ms since 1970. Raises `BadMoment`."""
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError as problem:
        raise BadMoment(f"{moment!r} is not a time", hint="write 2026-11-21T19:40:03Z or 2026-11-21T20:40:03+01:00") from problem
    if found.tzinfo is None:
        raise BadMoment(f"{moment} has no offset, so it may be any of 24 hours", hint="write 2026-11-21T19:40:03Z, or give it a tzinfo")
    return (found - _EPOCH) // timedelta(milliseconds=1)
