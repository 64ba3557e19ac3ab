"""Which due times are met: intervals, jitter, catch-up. Each against the obvious way to say it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.recurrence import Met, rule_of
from stepmesh_orchestrator.recurrence.interval import Interval
from stepmesh_orchestrator.recurrence.rule import LATE_MS

MINUTE = 60_000
T = 1_700_000_040_000
"""A whole minute."""


def each_minute(**more: Any) -> Schedule:
    return Schedule("s", FlowId("f"), every_ms=MINUTE, anchor_ms=T, **more)


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 400), st.integers(0, 400), st.integers(1, 5))
def test_an_interval_is_its_anchor_and_every_step_from_there(every: int, anchor: int, after: int, until: int, keep: int) -> None:
    dues = [due for due in range(anchor, 1_000, every) if due > after]
    interval = Interval(every, anchor)
    assert interval.next_after(after) == dues[0]
    between = [due for due in dues if due <= until]
    assert interval.count(after, until) == len(between)
    assert interval.newest(after, until, keep) == between[-keep:]


@given(
    st.sampled_from(["one", "all", "none"]),
    st.integers(1, 4),
    st.sampled_from([0, 1, MINUTE, 3 * MINUTE, 3 * MINUTE + 1]),
    st.sampled_from([0, 1, MINUTE // 2, MINUTE - 1]),
    st.integers(0, 12 * MINUTE),
    st.integers(-2 * MINUTE, 12 * MINUTE),
    st.none() | st.integers(0, 10 * MINUTE),
)
def test_what_is_met_is_the_newest_within_limit_and_window(
    catch_up: str, most: int, window: int, jitter: int, after: int, gap: int, until: int | None
) -> None:
    schedule = each_minute(
        catch_up=catch_up, catch_up_max=most, catch_up_window_ms=window, jitter_ms=jitter, until_ms=None if until is None else T + until
    )
    rule, now = rule_of(schedule), T + after + gap
    started = [due for due in range(T, T + 30 * MINUTE, MINUTE) if due > T + after and rule.starts_ms(due) <= now]
    started = [due for due in started if until is None or due <= T + until]
    limit = most if catch_up == "all" else 1
    oldest = now - (LATE_MS if catch_up == "none" else window or 10**15)
    dues = [due for due in started[-limit:] if rule.starts_ms(due) >= oldest]
    missed = started[: len(started) - len(dues)]
    assert rule.met(T + after, now) == Met(dues, len(missed), missed[-1] if missed else 0)


@given(st.integers(0, 10**6), st.integers(0, MINUTE - 1), st.text("abc", min_size=1, max_size=3))
def test_jitter_is_never_early_and_never_reaches_the_next_due_time(number: int, jitter: int, name: str) -> None:
    schedule = structs.replace(each_minute(jitter_ms=jitter), id=name)
    due = T + number * MINUTE
    starts = rule_of(schedule).starts_ms(due)
    assert due <= starts <= due + jitter < due + MINUTE
    assert rule_of(schedule).starts_ms(due) == starts, "the same whenever it is asked"


def test_jitter_spreads_schedules_and_due_times() -> None:
    rules = [rule_of(structs.replace(each_minute(jitter_ms=50_000), id=f"s{number}")) for number in range(20)]
    starts = [rule.starts_ms(T + number * MINUTE) - T - number * MINUTE for rule in rules for number in range(20)]
    assert len(set(starts)) > 350
    assert min(starts) < 5_000
    assert max(starts) > 45_000


def test_jitter_longer_than_the_gap_of_a_cron_stays_below_the_next_due_time() -> None:
    rule = rule_of(Schedule("s", FlowId("f"), cron="* * * * *", jitter_ms=86_400_000))
    for number in range(50):
        assert T + number * MINUTE <= rule.starts_ms(T + number * MINUTE) < T + (number + 1) * MINUTE


def test_nothing_is_due_after_until() -> None:
    rule = rule_of(each_minute(until_ms=T + MINUTE))
    assert rule.coming(T - 1, 5) == [T, T + MINUTE]
    assert rule.next_after(T + MINUTE) is None
    assert rule.met(T - 1, T + 9 * MINUTE) == Met([T + MINUTE], 1, T)


@pytest.mark.parametrize(("late", "met"), [(LATE_MS, True), (LATE_MS + 1, False)])
def test_without_catch_up_a_due_time_is_met_up_to_a_minute_late(late: int, met: bool) -> None:
    schedule = replace_every(each_minute(catch_up="none"), 3_600_000)
    assert rule_of(schedule).met(T - 1, T + late) == (Met([T], 0, 0) if met else Met([], 1, T))


def replace_every(schedule: Schedule, every_ms: int) -> Schedule:
    return structs.replace(schedule, every_ms=every_ms)


def test_a_clock_that_stands_before_the_last_due_time_meets_nothing() -> None:
    assert rule_of(each_minute(catch_up="all")).met(T + 5 * MINUTE, T + MINUTE) == Met([], 0, 0)
    assert rule_of(Schedule("s", FlowId("f"), cron="* * * * *", catch_up="all")).met(T + 5 * MINUTE, T + MINUTE) == Met([], 0, 0)


def test_a_zone_that_this_machine_does_not_know_makes_nothing_due_and_says_so() -> None:
    rule = rule_of(Schedule("s", FlowId("f"), cron="* * * * *", time_zone="Moon/Tranquility"))
    assert (rule.next_after(T), rule.coming(T, 5), rule.met(T, T + 9 * MINUTE), rule.starts_ms(T)) == (None, [], Met([], 0, 0), T)
    assert "Moon/Tranquility" in rule.trouble
