"""Moments are UTC and sort as text; lengths of time read at a glance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import clock

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)
)


def test_now_is_utc_in_whole_seconds() -> None:
    moment = clock.now()
    assert moment.utcoffset() == timedelta(0)
    assert moment.microsecond == 0
    assert abs(moment - datetime.now(UTC)) < timedelta(seconds=60)


def test_a_moment_elsewhere_is_written_in_utc() -> None:
    moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert clock.iso(moment) == "2026-02-28T23:30:00Z"
    assert clock.compact(moment) == "20260228.233000"


@given(MOMENTS, MOMENTS)
def test_text_sorts_as_time_does(one: datetime, two: datetime) -> None:
    one, two = (moment.replace(microsecond=0) for moment in (one, two))
    assert (clock.compact(one) < clock.compact(two)) == (one < two)
    assert datetime.fromisoformat(clock.iso(one)) == one


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (42, "42s"),
        (59.6, "1m00s"),
        (188, "3m08s"),
        (3599.7, "1h00m"),
        (3725, "1h02m"),
        (100_000, "27h46m"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert clock.duration(seconds) == text
