"""What is wrong with the definition of a schedule, said before it is stored: which field, what it holds, how it is written."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.schedules import CATCH_UPS, OVERLAPS, Schedule
from stepmesh_orchestrator.recurrence.zones import UnknownZone, zone_of

MIN_EVERY_MS = 1_000
MAX_MS = 100 * 366 * 86_400_000
"""A hundred years: a longer time is a mistake."""
MAX_JITTER_MS = 86_400_000
MAX_CATCH_UP = 1_000
MAX_CRON = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_FIELDS = {
    "minute": "0-59, for example 0 or */15",
    "hour": "0-23, for example 9 or 8-17",
    "day-of-month": "1-31 or L for the last, for example 1 or 1,15, on which the months named have so many days",
    "month": "1-12 or JAN-DEC, for example * or MAR-OCT",
    "day-of-week": "0-7 or SUN-SAT, for example MON-FRI, 5L for the last Friday or MON#1 for the first Monday",
}
_EXAMPLE = 'for example "0 9 * * MON-FRI": at nine on working days'


class ScheduleInvalid(StepmeshError):
    """Not retryable."""

    default_code = "SM-5252"


def check(schedule: Schedule) -> None:
    """All but whether it is ever due, which depends on when it begins. Raises `ScheduleInvalid`."""
    if not _NAME.fullmatch(schedule.id):
        raise ScheduleInvalid(
            f"{schedule.id[:140]!r} cannot be the id of a schedule", hint="use 1 to 128 letters, digits, dots, dashes and underscores"
        )
    if bool(schedule.cron) == bool(schedule.every_ms):
        raise ScheduleInvalid(f"schedule {schedule.id} wants one of cron and every", hint=f"give cron, {_EXAMPLE}, or every, like 5m")
    if schedule.cron:
        _check_cron(schedule.cron)
    _check_zone(schedule.time_zone)
    _check_one_of("overlap", schedule.overlap, OVERLAPS)
    _check_one_of("catch_up", schedule.catch_up, CATCH_UPS)
    _check_numbers(schedule)


def _check_cron(text: str) -> None:
    from cronsim import CronSim, CronSimError

    fields = text.split()
    if len(fields) != 5 or len(text) > MAX_CRON:
        raise ScheduleInvalid(
            f"cron {text[:MAX_CRON]!r} has {len(fields)} fields; it wants 5: minute hour day-of-month month day-of-week",
            code="SM-5250",
            hint=_EXAMPLE,
        )
    try:
        CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError, AssertionError) as problem:
        field = str(problem).removeprefix("Bad ")
        hint = f"{field}: {_FIELDS[field]}" if field in _FIELDS else _EXAMPLE
        raise ScheduleInvalid(f"the {field} field of cron {text!r} is not valid", code="SM-5250", hint=hint) from problem


def _check_zone(name: str) -> None:
    try:
        zone_of(name)
    except UnknownZone as problem:
        near = ", ".join(problem.near) or "Europe/Berlin, America/New_York or UTC"
        raise ScheduleInvalid(f"there is no time zone {name[:80]!r}", code="SM-5251", hint=f"perhaps {near}") from problem


def _check_one_of(field: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ScheduleInvalid(f"{field} is {given[:80]!r}", hint=f"it is one of {', '.join(known)}")


def _check_numbers(schedule: Schedule) -> None:
    longest_jitter = min(MAX_JITTER_MS, schedule.every_ms - 1) if schedule.every_ms else MAX_JITTER_MS
    for field, value, least, most in (
        ("every", schedule.every_ms, 0 if schedule.cron else MIN_EVERY_MS, MAX_MS),
        ("anchor", schedule.anchor_ms or 0, 0, MAX_MS),
        ("until", schedule.until_ms or 0, 0, MAX_MS),
        ("jitter", schedule.jitter_ms, 0, longest_jitter),
        ("catch_up_window", schedule.catch_up_window_ms, 0, MAX_MS),
    ):
        if not least <= value <= most:
            raise ScheduleInvalid(f"{field} is {value} ms", hint=f"it is {least} to {most} ms")
    if not 1 <= schedule.catch_up_max <= MAX_CATCH_UP:
        raise ScheduleInvalid(f"catch_up_max is {schedule.catch_up_max}", hint=f"it is 1 to {MAX_CATCH_UP}")
    if schedule.max_runs < 0:
        raise ScheduleInvalid(f"max_runs is {schedule.max_runs}", hint="give 0 for no limit, or a positive number")
