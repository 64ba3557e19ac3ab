"""Points in time as text: RFC 3339 with an offset, to ms since 1970 and back. Pure arithmetic; no clock and no time zone database."""

from __future__ import annotations

import calendar
import re

_INSTANT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def parse_instant_ms(text: str) -> int:
    """`2026-11-21T19:40:03.120Z` → ms since 1970. Raises `ValueError` that says what is expected."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time; write it like 2026-11-21T19:40:03Z or 2026-11-21T20:40:03+01:00")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = found[7] or "", found[8], int(found[9] or 0), int(found[10] or 0)
    in_range = 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60 and offset_hours < 24 and offset_minutes < 60
    if not (in_range and year and 1 <= day <= calendar.monthrange(year, month)[1]):
        raise ValueError(f"{text!r} is not a time: a field is out of range")
    offset = (offset_hours * 60 + offset_minutes) * (-1 if sign == "-" else 1)
    return (calendar.timegm((year, month, day, hour, minute, second)) - offset * 60) * 1000 + int(fraction.ljust(3, "0")[:3])


def instant_text(at_ms: int) -> str:
    """Ms since 1970 → `2026-11-21T19:40:03.120Z`."""
    days, of_day = divmod(at_ms, 86_400_000)
    year, month, day = _date(days)
    seconds, milliseconds = divmod(of_day, 1000)
    return f"{year:04}-{month:02}-{day:02}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}Z"


def _date(days: int) -> tuple[int, int, int]:
    """Days since 1970 → year, month, day. Years begin in March there, so that the leap day is the last."""
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    year = year_of_era + era * 400 + (month >= 10)
    return year, month + 3 if month < 10 else month - 9, of_year - (153 * month + 2) // 5 + 1
