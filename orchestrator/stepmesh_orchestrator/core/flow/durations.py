"""Durations as people write them → whole milliseconds.

A number is seconds; a string is `500ms`, `30s`, `5m`, `2h`, `3d`, or ISO 8601 `P…T…` without years and months (whose
length varies). Arithmetic is decimal, so that `0.1` is exactly 100 ms.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

MAX_MS = 100 * 366 * 86_400_000
"""A hundred years: more is a mistake, and would not fit timers."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_SIMPLE = re.compile(rf"{_NUMBER}\s*(ms|s|m|h|d)?")
_ISO = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?")
_ISO_UNITS_MS = (604_800_000, 86_400_000, 3_600_000, 60_000, 1_000)


def parse_duration_ms(value: Any) -> int:
    """Milliseconds, rounded half to even. Raises `ValueError` with the accepted forms for anything else, negatives included."""
    milliseconds = _milliseconds(value)
    if milliseconds is None or not 0 <= milliseconds <= MAX_MS:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
        raise ValueError(f"{shown} is not a duration: use seconds (1.5) or a text like 500ms, 30s, 5m, 2h, 3d, PT1M30S, up to 100 years")
    return round(milliseconds)


def _milliseconds(value: Any) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value) * 1_000 if abs(value) <= MAX_MS else None
    if isinstance(value, float):
        return Decimal(str(value)) * 1_000 if abs(value) <= MAX_MS else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if simple := _SIMPLE.fullmatch(text):
        return Decimal(simple[1]) * _UNITS_MS[simple[2] or "s"]
    iso = _ISO.fullmatch(text)
    if iso is None or not any(iso.groups()):
        return None
    return sum((Decimal(count) * unit for count, unit in zip(iso.groups(), _ISO_UNITS_MS, strict=True) if count), Decimal(0))
