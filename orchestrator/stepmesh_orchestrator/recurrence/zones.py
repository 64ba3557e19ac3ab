"""Time zones by their names in the database of the system, or of the package tzdata where it has none. Read once each."""

from __future__ import annotations

import difflib
from datetime import UTC, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones


class UnknownZone(LookupError):
    """`near`: names that may be meant."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.near = _near(name)


@cache
def zone_of(name: str) -> tzinfo:
    """Raises `UnknownZone`."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise UnknownZone(name) from None


def _near(name: str) -> list[str]:
    known = sorted(available_timezones())
    wanted = name.strip().lower().replace(" ", "_")
    city = wanted.rpartition("/")[2]
    same = [zone for zone in known if zone.lower() == wanted or zone.lower().rpartition("/")[2] == city]
    lowered = {zone.lower(): zone for zone in known}
    alike = [lowered[zone] for zone in difflib.get_close_matches(wanted, lowered, 3, 0.6)]
    return list(dict.fromkeys([*same[:3], *alike]))[:3]
