"""Cron in time zones, against a second implementation that looks at every minute; and what it does when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.recurrence.brute import dues, ms

from stepmesh_orchestrator.recurrence.cron import COUNTED, Cron


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # parts of a date and a time


CHANGES = {
    "Europe/Berlin": (utc(2026, 3, 29, 1), utc(2026, 10, 25, 1)),
    "America/New_York": (utc(2026, 3, 8, 7), utc(2026, 11, 1, 6)),
    "America/St_Johns": (utc(2026, 3, 8, 5, 30), utc(2026, 11, 1, 4, 30)),
    "Australia/Sydney": (utc(2026, 10, 3, 16), utc(2026, 4, 4, 16)),
    "Africa/Cairo": (utc(2026, 4, 23, 22), utc(2026, 10, 29, 21)),
    "Asia/Beirut": (utc(2026, 3, 28, 22), utc(2026, 10, 24, 21)),
    "America/Santiago": (utc(2026, 9, 6, 4), utc(2026, 4, 5, 3)),
    "Asia/Kolkata": (utc(2026, 3, 29, 1),),
    "UTC": (utc(2026, 3, 29, 1),),
}
"""When clocks go forward and back there, in UTC; some moment where they do not."""
MOMENTS = [(zone, moment) for zone, moments in CHANGES.items() for moment in moments]


def some(least: int, most: int) -> st.SearchStrategy[str]:
    return st.lists(st.integers(least, most), min_size=1, max_size=3, unique=True).map(lambda found: ",".join(map(str, found)))


MINUTES = st.sampled_from(["*", "*/7", "*/15", "*/30", "0", "30"]) | some(0, 59)
HOURS = st.sampled_from(["*", "*/2", "*/5", "0", "1", "2", "3"]) | some(0, 5)
DATES = st.sampled_from(["*", "*", "*/2"]) | some(1, 31)
WEEKDAYS = st.sampled_from(["*", "*", "0", "1,3,5"]) | some(0, 6)
EXPRESSIONS = st.builds("{} {} {} * {}".format, MINUTES, HOURS, DATES, WEEKDAYS)


@settings(deadline=None)
@given(st.sampled_from(MOMENTS), EXPRESSIONS, st.integers(1, 40 * 60), st.integers(1, 30 * 60))
@example(("Africa/Cairo", utc(2026, 4, 23, 22)), "* 1 * * 1,3,5", 1, 1)  # the day begins at one o'clock
def test_around_a_change_of_clocks_all_is_due_that_a_look_at_every_minute_finds(
    where: tuple[str, datetime], expression: str, before: int, after: int
) -> None:
    name, change = where
    start, end = change - timedelta(minutes=before), change + timedelta(minutes=after)
    cron = Cron(expression, UTC if name == "UTC" else ZoneInfo(name))
    expected = dues(expression, cron.zone, start, end)
    assert cron.newest(ms(start), ms(end), 100_000) == expected
    assert cron.newest(ms(start), ms(end), 5) == expected[-5:]
    assert cron.count(ms(start), ms(end)) == min(len(expected), COUNTED)


@settings(deadline=None)
@given(st.sampled_from(MOMENTS), EXPRESSIONS, st.lists(st.integers(0, 3 * 86_400_000), min_size=1, max_size=5))
def test_where_one_begins_to_look_changes_nothing(where: tuple[str, datetime], expression: str, offsets: list[int]) -> None:
    name, change = where
    cron = Cron(expression, UTC if name == "UTC" else ZoneInfo(name))
    start, end = change - timedelta(days=1, hours=12), change + timedelta(days=2)
    known = cron.newest(ms(start), ms(end), 100_000)
    for offset in offsets:
        later = [due for due in known if due > ms(start) + offset]
        if later:
            assert cron.next_after(ms(start) + offset) == later[0]


BERLIN = ZoneInfo("Europe/Berlin")


def told(expression: str, start: datetime, count: int) -> list[str]:
    """Due times in UTC."""
    cron, found, after = Cron(expression, BERLIN), list[str](), ms(start)
    for _ in range(count):
        due = cron.next_after(after)
        assert due is not None
        found.append(datetime.fromtimestamp(due / 1000, UTC).strftime("%d %H:%M"))
        after = due
    return found


def test_an_hour_that_is_leapt_over_is_due_right_after_the_leap() -> None:
    assert told("30 2 * * *", utc(2026, 3, 28, 12), 2) == ["29 01:00", "30 00:30"]
    assert told("0 3 * * *", utc(2026, 3, 28, 12), 2) == ["29 01:00", "30 01:00"]
    assert told("0,30 2 * * *", utc(2026, 3, 28, 12), 2) == ["29 01:00", "30 00:00"], "both are due at once, which is once"


def test_an_hour_that_comes_twice_is_due_the_first_time() -> None:
    assert told("30 2 * * *", utc(2026, 10, 24, 12), 2) == ["25 00:30", "26 01:30"]
    assert told("30 2 * * *", utc(2026, 10, 25, 0, 45), 1) == ["26 01:30"], "also seen from its first time"
    assert told("30 2 * * *", utc(2026, 10, 25, 1, 15), 1) == ["26 01:30"], "also seen from its second time"


def test_with_a_star_every_real_hour_counts() -> None:
    assert told("0 * * * *", utc(2026, 3, 29, 0, 30), 3) == ["29 01:00", "29 02:00", "29 03:00"]
    assert told("*/30 2 * * *", utc(2026, 10, 24, 23, 59), 5) == [
        "25 00:00",
        "25 00:30",
        "25 01:00",
        "25 01:30",
        "26 01:00",
    ]
    assert told("*/30 2 * * *", utc(2026, 3, 28, 12), 1) == ["30 00:00"], "there is no such hour on the 29th"


def test_an_expression_that_never_fits_ends() -> None:
    assert Cron("* * */20 * 1L", UTC).next_after(ms(utc(2026, 1, 1))) is None


def test_nothing_is_due_beyond_the_calendar() -> None:
    assert Cron("* * * * *", BERLIN).next_after(253_000_000_000_000) is None
    assert Cron("* * * * *", BERLIN).next_after(252_999_999_999_999) == 253_000_000_000_000 // 60_000 * 60_000 + 60_000


@pytest.mark.parametrize(("minutes", "counted"), [(COUNTED - 1, COUNTED - 1), (COUNTED, COUNTED), (COUNTED + 1, COUNTED)])
def test_a_long_gap_is_counted_up_to_a_limit(minutes: int, counted: int) -> None:
    start = ms(utc(2026, 1, 1))
    assert Cron("* * * * *", UTC).count(start, start + minutes * 60_000) == counted


def test_the_newest_of_a_gap_of_years_are_found_at_once() -> None:
    start, end = ms(utc(2000, 1, 1)), ms(utc(2026, 6, 15, 12))
    assert Cron("0 0 29 2 *", UTC).newest(start, end, 2) == [ms(utc(year, 2, 29)) for year in (2020, 2024)]
    assert Cron("* * * * *", UTC).newest(start, end, 3) == [end - 120_000, end - 60_000, end]
