"""What cannot be a schedule is said at once: the field, what it holds, how it is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.recurrence import ScheduleInvalid, check, rule_of

T = 1_700_000_000_000


def schedule(id: str = "s", **fields: Any) -> Schedule:
    return Schedule(id, FlowId("f"), **fields)


def refused(found: Schedule) -> ScheduleInvalid:
    with pytest.raises(ScheduleInvalid) as raised:
        check(found)
    return raised.value


@pytest.mark.parametrize(
    ("cron", "field", "hint"),
    [
        ("60 * * * *", "minute", "*/15"),
        ("* 24 * * *", "hour", "8-17"),
        ("0 0 32 * *", "day-of-month", "1-31"),
        ("0 0 31 2 *", "day-of-month", "so many days"),
        ("0 0 * 13 *", "month", "JAN-DEC"),
        ("0 0 * * 8", "day-of-week", "MON-FRI"),
        ("0 0 * * MO", "day-of-week", "MON-FRI"),
        ("*/0 * * * *", "minute", "*/15"),
        ("5-1 * * * *", "minute", "*/15"),
    ],
)
def test_a_bad_cron_names_its_field_and_an_example(cron: str, field: str, hint: str) -> None:
    problem = refused(schedule(cron=cron))
    assert (problem.code, f"the {field} field of cron '{cron}'" in problem.message) == ("SM-5250", True)
    assert hint in problem.hint


@pytest.mark.parametrize(("cron", "count"), [("0 9 * *", 4), ("0 0 9 * * MON", 6), ("@daily", 1)])
def test_a_cron_has_five_fields(cron: str, count: int) -> None:
    problem = refused(schedule(cron=cron))
    assert (problem.code, f"has {count} fields" in problem.message, "0 9 * * MON-FRI" in problem.hint) == ("SM-5250", True, True)


@given(st.text("0123456789*/,-L#WMON? \t²", max_size=30) | st.text(max_size=20))
def test_any_text_is_a_cron_that_works_or_refused(text: str) -> None:
    found = schedule(cron=text)
    try:
        check(found)
    except ScheduleInvalid:
        return
    due = rule_of(found).next_after(T)
    assert due is None or due > T


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berlim", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
    ],
)
def test_an_unknown_zone_names_the_nearest(zone: str, near: str) -> None:
    problem = refused(schedule(cron="* * * * *", time_zone=zone))
    assert (problem.code, near in problem.hint) == ("SM-5251", True)


@pytest.mark.parametrize("zone", ["", "../etc/passwd", "/etc/passwd", "Europe", "Nowhere/At_All", "x" * 300, "\0", "Europe/Berlin\n"])
def test_what_is_no_zone_at_all_is_refused_as_well(zone: str) -> None:
    assert refused(schedule(cron="* * * * *", time_zone=zone)).code == "SM-5251"


@pytest.mark.parametrize("given", [{}, {"cron": "* * * * *", "every_ms": 60_000}])
def test_it_wants_one_of_cron_and_every(given: dict[str, Any]) -> None:
    assert refused(schedule(**given)).code == "SM-5252"


@pytest.mark.parametrize("id", ["a", "A.b-c_9", "x" * 128])
def test_names_that_can_be(id: str) -> None:
    check(schedule(id, every_ms=1_000))


@pytest.mark.parametrize("id", ["", "-a", ".", "a b", "a/b", "ä", "x" * 129, "a\n"])
def test_names_that_cannot(id: str) -> None:
    assert refused(schedule(id, every_ms=1_000)).code == "SM-5252"


CENTURY = 100 * 366 * 86_400_000


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"every_ms": 1_000}, {"every_ms": 999}),
        ({"every_ms": CENTURY}, {"every_ms": CENTURY + 1}),
        ({"every_ms": 60_000, "jitter_ms": 59_999}, {"every_ms": 60_000, "jitter_ms": 60_000}),
        ({"cron": "* * * * *", "jitter_ms": 86_400_000}, {"cron": "* * * * *", "jitter_ms": 86_400_001}),
        ({"every_ms": 60_000, "jitter_ms": 0}, {"every_ms": 60_000, "jitter_ms": -1}),
        ({"every_ms": 60_000, "catch_up_max": 1_000}, {"every_ms": 60_000, "catch_up_max": 1_001}),
        ({"every_ms": 60_000, "catch_up_max": 1}, {"every_ms": 60_000, "catch_up_max": 0}),
        ({"every_ms": 60_000, "catch_up_window_ms": 0}, {"every_ms": 60_000, "catch_up_window_ms": -1}),
        ({"every_ms": 60_000, "max_runs": 0}, {"every_ms": 60_000, "max_runs": -1}),
        ({"every_ms": 60_000, "anchor_ms": CENTURY}, {"every_ms": 60_000, "anchor_ms": CENTURY + 1}),
        ({"every_ms": 60_000, "until_ms": CENTURY}, {"every_ms": 60_000, "until_ms": CENTURY + 1}),
        ({"every_ms": 60_000, "overlap": "cancel_other"}, {"every_ms": 60_000, "overlap": "both"}),
        ({"every_ms": 60_000, "catch_up": "none"}, {"every_ms": 60_000, "catch_up": ""}),
        ({"cron": "0 9 * * MON" + ",MON" * 47}, {"cron": "0 9 * * MON" + ",MON" * 48}),
    ],
)
def test_limits(good: dict[str, Any], bad: dict[str, Any]) -> None:
    check(schedule(**good))
    assert refused(schedule(**bad)).code in ("SM-5250", "SM-5252")
