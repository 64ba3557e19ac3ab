"""Definitions as people write them, and as they travel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stepmesh.durable.durations import BadDuration
from stepmesh.schedules import BadMoment, defined, moment_ms
from stepmesh_broker.protocol.ids import FlowId
from stepmesh_broker.protocol.schedules import Schedule

FLOW = FlowId("f" * 64)


def test_a_definition_travels_in_milliseconds_and_json() -> None:
    told = defined(
        "s", FLOW, {"n": 12345678901234567890}, {
            "every": "1h30m", "jitter": 2.5, "catch_up_window": timedelta(days=2), "anchor": "2026-11-21T19:40:00.250Z",
            "until": datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1))), "variables": {"v": 1}, "tags": {"a": "b"},
            "overlap": "allow",
        },
    )  # fmt: skip
    assert told == Schedule(
        "s", FLOW, b'{"n":12345678901234567890}', every_ms=5_400_000, jitter_ms=2_500, catch_up_window_ms=172_800_000,
        anchor_ms=1_795_290_000_250, until_ms=1_798_758_000_000, variables=b'{"v":1}', tags={"a": "b"}, overlap="allow",
    )  # fmt: skip


def test_a_cron_stays_as_it_is_written() -> None:
    assert defined("s", FLOW, None, {"cron": "0 9 * * MON-FRI", "time_zone": "Europe/Berlin"}) == Schedule(
        "s", FLOW, b"null", "0 9 * * MON-FRI", time_zone="Europe/Berlin"
    )


@pytest.mark.parametrize("moment", ["2026-11-21T19:40:00", "yesterday", "", datetime(2026, 1, 1)])  # noqa: DTZ001  # what is refused
def test_a_moment_without_an_offset_is_refused(moment: Any) -> None:
    with pytest.raises(BadMoment) as raised:
        moment_ms(moment)
    assert raised.value.code == "SM-5255"


def test_moments() -> None:
    assert moment_ms("1970-01-01T01:00:00+01:00") == 0
    assert moment_ms(datetime(2026, 11, 21, 19, 40, 0, 999_999, tzinfo=UTC)) == 1_795_290_000_999


def test_a_duration_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadDuration):
        defined("s", FLOW, None, {"every": "soon"})
