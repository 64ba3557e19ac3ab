"""The second implementation of cron: every minute of a period is looked at. Only what the tests generate: stars, steps and lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(moment: datetime) -> int:
    """Ms since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def dues(expression: str, zone: tzinfo, start: datetime, end: datetime) -> list[int]:
    """Due times later than `start` and no later than `end`, both in UTC and whole minutes."""
    minute, hour = expression.split()[:2]
    instants = _of_real_minutes if minute.startswith("*") or hour.startswith("*") else _of_wall_clocks
    return sorted({ms(found) for found in instants(expression, zone, start, end) if start < found <= end})


def _of_real_minutes(expression: str, zone: tzinfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """A star: each minute that really comes, and whose wall clock fits."""
    moment = start
    while moment <= end:
        if _fits(expression, moment.astimezone(zone)):
            yield moment
        moment += MINUTE


def _of_wall_clocks(expression: str, zone: tzinfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Fixed times: each wall clock that fits, once: the first time that it comes, or the first real minute after the leap over it."""
    day = timedelta(days=1)
    clock = (start - day).astimezone(zone).replace(tzinfo=None)
    last = (end + day).astimezone(zone).replace(tzinfo=None)
    while clock <= last:
        if _fits(expression, clock):
            shown = clock
            while (real := shown.replace(tzinfo=zone, fold=0).astimezone(UTC)).astimezone(zone).replace(tzinfo=None) != shown:
                shown += MINUTE
            yield real
        clock += MINUTE


def _fits(expression: str, clock: datetime) -> bool:
    minute, hour, date, month, weekday = expression.split()
    on_date, on_weekday = _has(date, clock.day, 1, 31), _has(weekday, clock.isoweekday() % 7, 0, 6)
    on_day = on_date and on_weekday if date.startswith("*") or weekday.startswith("*") else on_date or on_weekday
    return on_day and _has(minute, clock.minute, 0, 59) and _has(hour, clock.hour, 0, 23) and _has(month, clock.month, 1, 12)


def _has(field: str, value: int, least: int, most: int) -> bool:
    if field.startswith("*"):
        return value in range(least, most + 1)[:: int(field[2:] or 1)]
    return value in map(int, field.split(","))
