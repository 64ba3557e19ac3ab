"""`stepmesh schedule …`: what starts runs by the time. Times of a schedule are shown in its own zone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter

from stepmesh import documents
from stepmesh.client import Client
from stepmesh.schedules import Definition
from stepmesh_broker.protocol.schedules import ScheduleInfo
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.tables import print_json, print_table, raw

schedule = App(name="schedule", help="Start runs by the time.")
AsJson = Annotated[bool, Parameter(help="Print one JSON object.")]
Key = Annotated[str | None, Parameter(help="Makes it idempotent: the same key gives the same runs.")]
Id = Annotated[str, Parameter(help="Id of the schedule.")]


@schedule.command(name="create")
def create_command(
    id: Id,
    /,
    *,
    flow: Annotated[str, Parameter(help="The flow: a file, `-` for stdin, or the id of a stored flow.")],
    cron: Annotated[str | None, Parameter(help="Five fields: minute hour day-of-month month day-of-week.")] = None,
    every: Annotated[str | None, Parameter(help="An interval of elapsed time, like 30s, 5m or 1h30m.")] = None,
    tz: Annotated[str, Parameter(help="Time zone of --cron, like Europe/Berlin.")] = "UTC",
    anchor: Annotated[
        str | None, Parameter(help="First due time of --every, like 2026-11-21T19:40:00Z; default: one interval from now.")
    ] = None,
    input: Annotated[str | None, Parameter(help="File with the input of each run.")] = None,
    input_json: Annotated[str | None, Parameter(help="The input as JSON text.")] = None,
    variables: Annotated[str | None, Parameter(help="Run variables: a file, or an object as JSON text.")] = None,
    overlap: Annotated[
        Literal["skip", "buffer_one", "allow", "cancel_other"] | None,
        Parameter(help="What becomes of a due time while a run of the schedule lives; default: skip."),
    ] = None,
    catch_up: Annotated[
        Literal["one", "all", "none"] | None, Parameter(help="Which missed due times are made up for; default: the last one.")
    ] = None,
    catch_up_max: Annotated[int | None, Parameter(help="Of --catch-up all: the last so many.")] = None,
    catch_up_window: Annotated[str | None, Parameter(help="What was due longer ago is not made up for, like 6h.")] = None,
    jitter: Annotated[str | None, Parameter(help="Runs start up to so much later, like 30s.")] = None,
    until: Annotated[str | None, Parameter(help="Not due after that time.")] = None,
    max_runs: Annotated[int | None, Parameter(help="Due times that it meets at most.")] = None,
    max_concurrency: Annotated[int | None, Parameter(help="Tasks of a run in flight at once; 0 is no limit.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="NAME=VALUE for its runs, repeatable.")] = (),
    paused: Annotated[bool, Parameter(help="Start nothing until it is resumed.")] = False,
    replace: Annotated[bool, Parameter(help="Change the one that has this id.")] = False,
    target: Target = HERE,
    json: AsJson = False,
) -> int:
    """Make a schedule, and show when it is due.

    Example: stepmesh schedule create report --flow report.yaml --cron "0 9 * * MON-FRI" --tz Europe/Berlin
    """
    from stepmesh_cli.inputs import InputSource, read_inputs, read_object
    from stepmesh_cli.submit import tags_of

    document = documents.known_id(flow) or Path(flow)
    (value,) = read_inputs(InputSource(file=input, json=input_json))
    given: dict[str, Any] = {
        "cron": cron, "every": every, "time_zone": tz, "anchor": anchor, "overlap": overlap, "catch_up": catch_up,
        "catch_up_max": catch_up_max, "catch_up_window": catch_up_window, "jitter": jitter, "until": until, "max_runs": max_runs,
        "max_concurrency": max_concurrency, "tags": tags_of(tag), "paused": paused or None,
        "variables": read_object(variables, "--variables"),
    }  # fmt: skip
    definition: Definition = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]  # by name
    return _shown(target, lambda client: client.schedules.create(id, document, value, replace=replace, **definition), json)


@schedule.command(name="list")
def list_command(*, target: Target = HERE, json: Annotated[bool, Parameter(help="Print one JSON object per line.")] = False) -> int:
    """List schedules by id.

    Example: stepmesh schedule list
    """

    async def listed() -> int:
        async with connected(target) as client:
            found = [one async for one in client.schedules.list()]
        if json:
            for one in found:
                print_json(_plain(one))
        else:
            print_table(("schedule", "status", "due", "zone", "next", "fired", "skipped", "live"), map(_row, found))
        return exits.OK

    return run_to_end(listed())


@schedule.command(name="show")
def show_command(id: Id, /, *, target: Target = HERE, json: AsJson = False) -> int:
    """Show a schedule, what became of it, and the next five due times.

    Example: stepmesh schedule show report
    """
    return _shown(target, lambda client: client.schedules.get(id), json)


@schedule.command(name="pause")
def pause_command(id: Id, /, *, target: Target = HERE, json: AsJson = False) -> int:
    """Start nothing by its times until it is resumed.

    Example: stepmesh schedule pause report
    """
    return _shown(target, lambda client: client.schedules.pause(id), json)


@schedule.command(name="resume")
def resume_command(id: Id, /, *, target: Target = HERE, json: AsJson = False) -> int:
    """Go on with what is due from now on.

    Example: stepmesh schedule resume report
    """
    return _shown(target, lambda client: client.schedules.resume(id), json)


@schedule.command(name="trigger")
def trigger_command(id: Id, /, *, key: Key = None, target: Target = HERE, json: AsJson = False) -> int:
    """Start a run of it now, and print its id.

    Example: stepmesh schedule trigger report
    """

    async def triggered(client: Client) -> list[str]:
        return [(await client.schedules.trigger(id, key)).id]

    return _started(target, triggered, json)


@schedule.command(name="backfill")
def backfill_command(
    id: Id,
    /,
    *,
    start: Annotated[str, Parameter(name="--from", help="First moment, like 2026-11-21T00:00:00Z.")],
    end: Annotated[str, Parameter(name="--to", help="Last moment.")],
    key: Key = None,
    target: Target = HERE,
    json: AsJson = False,
) -> int:
    """Start a run for each due time of a period, and print their ids.

    Example: stepmesh schedule backfill report --from 2026-11-01T00:00:00Z --to 2026-11-07T23:59:59Z
    """

    async def filled(client: Client) -> list[str]:
        return [run.id for run in await client.schedules.backfill(id, start, end, key)]

    return _started(target, filled, json)


@schedule.command(name="delete")
def delete_command(id: Id, /, *, target: Target = HERE, json: AsJson = False) -> int:
    """Forget a schedule; its runs go on.

    Example: stepmesh schedule delete report
    """

    async def deleted() -> int:
        async with connected(target) as client:
            await client.schedules.delete(id)
        if json:
            print_json({"schedule": id, "status": "deleted"})
        else:
            print(f"schedule {id}: deleted")
        return exits.OK

    return run_to_end(deleted())


def _shown(target: Target, ask: Callable[[Client], Awaitable[ScheduleInfo]], as_json: bool) -> int:
    async def asked() -> ScheduleInfo:
        async with connected(target) as client:
            return await ask(client)

    found = run_to_end(asked())
    if as_json:
        print_json(_plain(found))
    else:
        _print(found)
    return exits.OK


def _started(target: Target, start: Callable[[Client], Awaitable[list[str]]], as_json: bool) -> int:
    async def asked() -> list[str]:
        async with connected(target) as client:
            return await start(client)

    runs = run_to_end(asked())
    if as_json:
        print_json({"runs": runs})
    else:
        print("\n".join(runs))
    return exits.OK


def _print(found: ScheduleInfo) -> None:
    one = found.schedule
    print(f"schedule {one.id}: {found.status}, {_due(found)} ({one.time_zone}), flow {one.flow[:12]}")
    print(f"overlap {one.overlap}, catch-up {one.catch_up}; {found.fired} fired, {found.skipped} skipped, {len(found.live)} live")
    if found.last_run is not None:
        print(f"last: {_moment(found, found.last_due_ms)}  run {found.last_run}")
    if found.skipped_reason:
        print(f"last skipped: {_moment(found, found.skipped_due_ms)}  {found.skipped_reason}")
    if found.waiting_ms is not None:
        print(f"waiting: {_moment(found, found.waiting_ms)}")
    for due_ms in found.next_ms:
        print(f"{'once resumed' if found.status == 'paused' else 'next'}: {_moment(found, due_ms)}")


def _row(found: ScheduleInfo) -> tuple[Any, ...]:
    upcoming = _moment(found, found.next_ms[0]) if found.next_ms and found.status != "paused" else ""
    one = found.schedule
    return one.id, found.status, _due(found), one.time_zone, upcoming, found.fired, found.skipped, len(found.live)


def _due(found: ScheduleInfo) -> str:
    return found.schedule.cron or f"every {found.schedule.every_ms / 1000:g} s"


def _moment(found: ScheduleInfo, at_ms: int | None) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if at_ms is None:
        return ""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    try:
        return moment.astimezone(ZoneInfo(found.schedule.time_zone)).isoformat(" ", "seconds")
    except ZoneInfoNotFoundError:  # known there, and not here
        return moment.isoformat(" ", "seconds")


def _plain(found: ScheduleInfo) -> dict[str, Any]:
    told = msgspec.structs.asdict(found)
    one = msgspec.structs.asdict(found.schedule)
    return {**told, "schedule": {**one, "input": raw(found.schedule.input or None), "variables": raw(found.schedule.variables)}}
