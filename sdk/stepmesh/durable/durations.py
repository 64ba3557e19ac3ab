"""How long, as people write it: `"3d"`, `"1h30m"`, `"500ms"`, seconds as a number, or a timedelta."""

from __future__ import annotations

import re
from datetime import timedelta

from stepmesh_broker.errors import StepmeshError

Duration = str | float | timedelta
"""Text, seconds, or a timedelta."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_TEXT = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


LONGEST_S = 1_000 * 366 * 86_400.0
"""A thousand years: beyond that nobody means a time."""


class BadDuration(StepmeshError):
    """It cannot be read, or is negative or endless."""

    default_code = "SM-1070"


def seconds(duration: Duration) -> float:
    """Raises `BadDuration`."""
    if isinstance(duration, timedelta):
        found = duration.total_seconds()
    elif isinstance(duration, str):
        found = _read(duration)
    else:
        found = float(duration)
    if not 0 <= found <= LONGEST_S:
        raise BadDuration(f"{duration!r} is no time to wait", hint="it is 0 or more, and a thousand years at most")
    return found


def positive(duration: Duration) -> float:
    """The same of a time that is not nothing. Raises `BadDuration`."""
    found = seconds(duration)
    if not found:
        raise BadDuration(f"{duration!r} is no time at all", hint="it is more than 0")
    return found


def _read(text: str) -> float:
    bare = text.strip()
    if not _TEXT.fullmatch(bare):
        raise BadDuration(f"{text!r} is no duration", hint='write "3d", "1h30m", "500ms" (units ms, s, m, h, d, w), or seconds as a number')
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(bare))
