"""Routes of `/v1/schedules`: what starts runs by the time. What a definition may say is the orchestrator's to judge."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from stepmesh.durable.durations import seconds
from stepmesh.schedules import moment_ms
from stepmesh_broker.protocol.ids import FlowId
from stepmesh_broker.protocol.schedules import Schedule, ScheduleInfo
from stepmesh_gateway.http.messages import NULL, Json
from stepmesh_gateway.http.refusals import bad_body, bad_parameter
from stepmesh_gateway.http.registry import Asked, Handler, NoQuery, Route, Scope
from stepmesh_gateway.http.schedule_messages import Definition, Gone, NewSchedule, Nothing, Page, PageQuery, Period, ScheduleView, Started
from stepmesh_gateway.http.views import rfc3339
from stepmesh_gateway.limits import check_payload
from stepmesh_gateway.translate.fields import flow_id

PATH = "/v1/schedules"
LONGEST_KEY = 200


async def create_schedule(asked: Asked[NoQuery, NewSchedule]) -> ScheduleView:
    """One that is there just so stays as it is; another one of that id is a conflict."""
    return _view(await asked.operations.schedules.put(await _schedule(asked, asked.body.id)))


async def put_schedule(asked: Asked[NoQuery, Definition]) -> ScheduleView:
    """Make it, or change it."""
    return _view(await asked.operations.schedules.put(await _schedule(asked, asked.path["schedule"]), replace=True))


async def list_schedules(asked: Asked[PageQuery, None]) -> Page:
    """By id."""
    page = await asked.operations.schedules.page(asked.query.cursor, asked.query.limit)
    cursor = page.schedules[-1].schedule.id if page.more and page.schedules else None
    return Page(schedules=[_view(one) for one in page.schedules], cursor=cursor)


async def get_schedule(asked: Asked[NoQuery, None]) -> ScheduleView:
    """With the next five due times."""
    return _view(await asked.operations.schedules.get(asked.path["schedule"]))


async def delete_schedule(asked: Asked[NoQuery, None]) -> Gone:
    """Its runs go on."""
    await asked.operations.schedules.delete(asked.path["schedule"])
    return Gone(id=asked.path["schedule"])


async def pause_schedule(asked: Asked[NoQuery, Nothing]) -> ScheduleView:
    """Nothing starts by its times until it is resumed."""
    return _view(await asked.operations.schedules.pause(asked.path["schedule"]))


async def resume_schedule(asked: Asked[NoQuery, Nothing]) -> ScheduleView:
    """What was due meanwhile is not made up for."""
    return _view(await asked.operations.schedules.resume(asked.path["schedule"]))


async def trigger_schedule(asked: Asked[NoQuery, Nothing]) -> Started:
    """Whatever else runs, also while it is paused; the same `Idempotency-Key` gives the same run."""
    key = asked.caller.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise bad_parameter(f"Idempotency-Key wants 1 to {LONGEST_KEY} characters")
    return Started(run_ids=[(await asked.operations.schedules.trigger(asked.path["schedule"], key)).id])


async def backfill_schedule(asked: Asked[NoQuery, Period]) -> Started:
    """A run for each due time, also for those that ran already."""
    period = asked.body
    runs = await asked.operations.schedules.backfill(asked.path["schedule"], period.start, period.end, period.key)
    return Started(run_ids=[run.id for run in runs])


async def _schedule(asked: Asked[NoQuery, Any], name: str) -> Schedule:
    body: Definition = asked.body
    for field in ("input", "variables"):
        check_payload(field, bytes(getattr(body, field)), asked.operations.settings.limits)
    return Schedule(
        name, await _flow(asked, body), bytes(body.input), body.cron or "", _ms(body.every), _moment_ms(body.anchor), body.time_zone,
        body.overlap, body.catch_up, body.catch_up_max, _ms(body.catch_up_window), _ms(body.jitter), _moment_ms(body.until), body.max_runs,
        body.paused, _object(body.variables), body.max_concurrency, body.tags,
    )  # fmt: skip


async def _flow(asked: Asked[NoQuery, Any], body: Definition) -> FlowId:
    """Stored first, if it came along."""
    document = _object(body.flow)
    if (document is None) == (body.flow_id is None):
        raise bad_body("it wants one of flow_id and flow")
    if document is None:
        return flow_id(body.flow_id or "")
    stored = await asked.operations.store_flow(document)
    if not stored.stored:
        found = msgspec.json.decode(stored.diagnostics)
        worst = next((one for one in found if one["level"] != "warning"), {"code": "", "message": "invalid"})
        raise bad_body(f"the flow is not valid: {worst['code']} {worst['message']}")
    return stored.flow


def _view(found: ScheduleInfo) -> ScheduleView:
    one = found.schedule
    return ScheduleView(
        id=one.id, status=found.status, flow_id=one.flow, cron=one.cron, every=one.every_ms / 1000, anchor=_told(one.anchor_ms),
        time_zone=one.time_zone, overlap=one.overlap, catch_up=one.catch_up, catch_up_max=one.catch_up_max,
        catch_up_window=one.catch_up_window_ms / 1000, jitter=one.jitter_ms / 1000, until=_told(one.until_ms), max_runs=one.max_runs,
        input=Json(one.input) if one.input else None, variables=None if one.variables is None else Json(one.variables),
        max_concurrency=one.max_concurrency, tags=one.tags, next=[rfc3339(due_ms) for due_ms in found.next_ms], fired=found.fired,
        skipped=found.skipped, live=list(found.live), created_at=rfc3339(found.created_ms), waiting=_told(found.waiting_ms),
        last_due=_told(found.last_due_ms), last_run_id=found.last_run, skipped_due=_told(found.skipped_due_ms),
        skipped_reason=found.skipped_reason,
    )  # fmt: skip


def _told(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _ms(duration: str | float) -> int:
    return round(seconds(duration) * 1000)


def _moment_ms(moment: datetime | None) -> int | None:
    return None if moment is None else moment_ms(moment)


def _object(text: Json) -> bytes | None:
    return None if bytes(text) == NULL else bytes(text)


def _post(verb: str, summary: str, handler: Handler, body: type[msgspec.Struct], answer: type[msgspec.Struct]) -> Route:
    return Route(
        method="POST", path=f"{PATH}/{{schedule}}/{verb}", scope=Scope.RUN, summary=summary, handler=handler, body=body, answer=answer
    )


ROUTES = (
    Route(
        method="POST", path=PATH, scope=Scope.RUN, summary="Make a schedule", handler=create_schedule, body=NewSchedule,
        answer=ScheduleView,
    ),
    Route(method="GET", path=PATH, scope=Scope.READ, summary="List schedules", handler=list_schedules, query=PageQuery, answer=Page),
    Route(method="GET", path=f"{PATH}/{{schedule}}", scope=Scope.READ, summary="One schedule", handler=get_schedule, answer=ScheduleView),
    Route(
        method="PUT", path=f"{PATH}/{{schedule}}", scope=Scope.RUN, summary="Make or change a schedule", handler=put_schedule,
        body=Definition, answer=ScheduleView,
    ),
    Route(method="DELETE", path=f"{PATH}/{{schedule}}", scope=Scope.RUN, summary="Forget a schedule", handler=delete_schedule, answer=Gone),
    _post("pause", "Start nothing by its times", pause_schedule, Nothing, ScheduleView),
    _post("resume", "Go on with its times", resume_schedule, Nothing, ScheduleView),
    Route(
        method="POST", path=f"{PATH}/{{schedule}}/trigger", scope=Scope.RUN, summary="Start a run of it now", handler=trigger_schedule,
        body=Nothing, answer=Started, headers={"Idempotency-Key": "the same key gives the same run, however often it is sent"},
    ),
    _post("backfill", "Start a run for each due time of a period", backfill_schedule, Period, Started),
)  # fmt: skip
"""All of schedules."""
