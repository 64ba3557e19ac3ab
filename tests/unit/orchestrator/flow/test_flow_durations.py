"""Durations → milliseconds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow.durations import MAX_MS, parse_duration_ms


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (0, 0),
        (30, 30_000),
        (0.1, 100),
        (1.5, 1_500),
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("3d", 259_200_000),
        (" 1.5 s ", 1_500),
        ("7", 7_000),
        ("PT1M30S", 90_000),
        ("PT0.5S", 500),
        ("P1DT2H", 93_600_000),
        ("P2W", 1_209_600_000),
        ("PT0S", 0),
        (MAX_MS // 1_000, MAX_MS),
    ],
)
def test_what_is_understood(value: Any, milliseconds: int) -> None:
    assert parse_duration_ms(value) == milliseconds


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        True,
        None,
        "",
        "s",
        "5 minutes",
        "-5s",
        "1e3",
        "P",
        "PT",
        "P1DT",
        "P1Y",
        "P1M",
        "pt1s",
        [],
        {},
        float("nan"),
        float("inf"),
        10**30,
        "9" * 400,
    ],
)
def test_what_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_ms(value)


def test_the_limit_of_a_hundred_years() -> None:
    assert parse_duration_ms(f"{MAX_MS}ms") == MAX_MS
    with pytest.raises(ValueError, match="100 years"):
        parse_duration_ms(f"{MAX_MS + 1}ms")


@given(st.integers(0, MAX_MS))
def test_milliseconds_are_exact(value: int) -> None:
    assert parse_duration_ms(f"{value}ms") == value


def parsed(value: Any) -> int | str:
    try:
        return parse_duration_ms(value)
    except ValueError as refused:
        return str(refused)


@given(st.text(max_size=12) | st.text("PTDHMSms0123.-", max_size=8) | st.floats() | st.integers())
def test_anything_ends_in_a_duration_or_a_refusal(value: Any) -> None:
    result = parsed(value)
    assert "not a duration" in result if isinstance(result, str) else 0 <= result <= MAX_MS
