"""RFC 3339 to milliseconds: every field at its bounds, offsets, fractions; checked against the standard library."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.instants import instant_text, parse_instant_ms

FIRST, LAST = datetime.datetime.fromisoformat("0002-01-01"), datetime.datetime.fromisoformat("9998-12-31")
ZONES = st.timedeltas(datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000),
        ("1970-01-01 01:00:00+01:00", 0),
        ("1969-12-31T19:00:00-05:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2026-11-21T19:40:03.12Z", 1_795_290_003_120),
        ("2026-11-21T19:40:03.123456789Z", 1_795_290_003_123),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ],
)
def test_instants(text: str, ms: int) -> None:
    assert parse_instant_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-11-21", "2026-11-21T19:40", "2026-11-21T19:40:03", "26-11-21T19:40:03Z",
        "2026-11-21T19:40:03+1", "2026-11-21T19:40:03.Z",
        "2026-11-21T19:40:03.0123456789Z", " 2026-11-21T19:40:03Z", "2026-11-21T19:40:03Z\n", "२०२६-11-21T19:40:03Z",
    ],
)  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time; write it like"):
        parse_instant_ms(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-00-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-32T00:00:00Z",
        "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "0000-01-01T00:00:00Z", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+00:60",
    ],
)  # fmt: skip
def test_fields_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_instant_ms(text)


@given(st.datetimes(FIRST, LAST), ZONES)
def test_it_agrees_with_the_standard_library(at: datetime.datetime, offset: datetime.timedelta) -> None:
    minutes = datetime.timedelta(minutes=int(offset.total_seconds() // 60))
    moment = at.replace(microsecond=at.microsecond // 1_000 * 1_000, tzinfo=datetime.timezone(minutes))

    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert parse_instant_ms(moment.isoformat()) == (moment - epoch) // datetime.timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01T00:00:00.000Z",
        "2000-02-29T23:59:59.999Z",
        "2023-11-14T22:13:20.000Z",
        "2024-03-01T00:00:00.001Z",
        "9999-12-31T12:00:00.000Z",
    ],
)
def test_text_comes_back_as_it_was(text: str) -> None:
    assert instant_text(parse_instant_ms(text)) == text


@given(st.integers(0, 253_402_300_799_999))
def test_any_time_comes_back_as_it_was(at_ms: int) -> None:
    assert parse_instant_ms(instant_text(at_ms)) == at_ms
