"""What happened to schedules; the rules of events.py hold, which joins these to its union. None is about a run of its partition."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.schedules import Schedule

NO_RUN = RunId("")


class ScheduleSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """A schedule is as it says from now on: new, changed, paused or resumed. `after_ms`: due times up to then are dealt with."""

    run: ClassVar[RunId] = NO_RUN
    namespace: Namespace
    schedule: Schedule
    after_ms: int


class ScheduleDeleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """It starts nothing any more and is forgotten; its runs go on."""

    run: ClassVar[RunId] = NO_RUN
    schedule: str


class ScheduleFired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """The run for a due time was created just before. `manual`: by hand, whatever was due. `ends`: dormant runs of the schedule that are to
    be cancelled as soon as they are back."""

    run: ClassVar[RunId] = NO_RUN
    schedule: str
    due_ms: int
    started: RunId
    manual: bool = False
    ends: list[RunId] = []


class ScheduleSkipped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """So many due times up to `due_ms` start no run, for that reason."""

    run: ClassVar[RunId] = NO_RUN
    schedule: str
    due_ms: int
    count: int
    reason: str


class ScheduleWaits(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """The run for a due time starts when the runs of the schedule that live have ended."""

    run: ClassVar[RunId] = NO_RUN
    schedule: str
    due_ms: int


ScheduleEvent = ScheduleSet | ScheduleDeleted | ScheduleFired | ScheduleSkipped | ScheduleWaits
"""All of them."""
