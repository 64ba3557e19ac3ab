"""Bodies of `/v1/schedules`. Durations are texts like `5m`, or seconds; moments have an offset.

The OpenAPI document is made from these types; their docstrings are its descriptions.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from stepmesh_gateway.http.messages import NULL, Json, JsonObject, MaybeObject, Rfc3339, Uint32

MAX_LIMIT = 100
"""Schedules of one page."""
Duration = Annotated[str, msgspec.Meta(description="like 30s, 5m, 1h30m")] | Annotated[float, msgspec.Meta(ge=0, description="seconds")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=128)]
ContentId = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")]


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One of `flow_id` and `flow` (a document), and one of `cron` (five fields, in `time_zone`) and `every` (elapsed time, from `anchor`
    on). See docs/schedules.md."""

    flow_id: ContentId | None = None
    flow: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    input: Json = msgspec.field(default_factory=lambda: Json(NULL))
    cron: str | None = None
    every: Duration = 0
    anchor: Moment | None = None
    time_zone: str = "UTC"
    overlap: Literal["skip", "buffer_one", "allow", "cancel_other"] = "skip"
    catch_up: Literal["one", "all", "none"] = "one"
    catch_up_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    catch_up_window: Duration = 0
    jitter: Duration = 0
    until: Moment | None = None
    max_runs: Uint32 = 0
    paused: bool = False
    variables: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    max_concurrency: Uint32 | None = None
    tags: dict[str, str] | None = None


class NewSchedule(Definition, frozen=True, kw_only=True):
    """A definition with its id."""

    id: Name


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule: its definition (durations in seconds), and what became of it. `next`: due times to come, without jitter. A list leaves
    `input` and `variables` out."""

    id: str
    status: str
    flow_id: str
    time_zone: str
    overlap: str
    catch_up: str
    catch_up_max: int
    next: list[Rfc3339]
    fired: int
    skipped: int
    live: list[str]
    created_at: Rfc3339
    cron: str = ""
    every: float = 0.0
    anchor: Rfc3339 | None = None
    catch_up_window: float = 0.0
    jitter: float = 0.0
    until: Rfc3339 | None = None
    max_runs: int = 0
    input: Json | None = None
    variables: JsonObject | None = None
    max_concurrency: int | None = None
    tags: dict[str, str] | None = None
    waiting: Rfc3339 | None = None
    last_due: Rfc3339 | None = None
    last_run_id: str | None = None
    skipped_due: Rfc3339 | None = None
    skipped_reason: str = ""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """By id. `cursor`: where the next page begins; none on the last one."""

    schedules: list[ScheduleView]
    cursor: str | None = None


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`cursor`: of the page before."""

    cursor: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = MAX_LIMIT


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """An empty object."""


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """Both ends included. `key`: the same one gives the same runs."""

    start: Moment
    end: Moment
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The runs, by due time."""

    run_ids: list[str]


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """It starts nothing any more."""

    id: str
