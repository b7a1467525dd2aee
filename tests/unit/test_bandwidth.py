"""How fast a machine may fetch: what a site says, which rate holds when, and that it is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.site import (
    LEAST_RATE,
    Bandwidth,
    Site,
    format_rate,
    parse_bandwidth,
    parse_window,
)
from pipeline.policy import window as windows
from pipeline.policy.bandwidth import Limit, limit_at
from tests.unit.test_window import ANY_WINDOW, MOMENTS

MINUTE = timedelta(minutes=1)
RATES = st.one_of(st.none(), st.integers(LEAST_RATE, 10**12))
ENTRIES = st.lists(
    st.builds(Bandwidth, window=st.one_of(st.none(), ANY_WINDOW), rate=RATES), max_size=4
).map(tuple)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def entries(*texts: str) -> tuple[Bandwidth, ...]:
    return tuple(parse_bandwidth(text) for text in texts)


# --- what a site says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "window", "rate"),
    [
        ("256 kbit/s", None, 256_000),
        ("256kbit/s", None, 256_000),
        ("1.5 Mbit/s", None, 1_500_000),
        ("2 Gbit/s", None, 2_000_000_000),
        ("64000 bit/s", None, 64_000),
        ("unlimited", None, None),
        ("22:00-05:00 4 Mbit/s", "22:00-05:00", 4_000_000),
        ("22:00-05:00 UTC unlimited", "22:00-05:00 UTC", None),
        (
            "  Mon-Fri   07:00-19:00 Europe/Berlin\t128 kbit/s ",
            "Mon-Fri 07:00-19:00 Europe/Berlin",
            128_000,
        ),
    ],
)
def test_a_limit_is_a_rate_after_a_window_or_alone(
    text: str, window: str | None, rate: int | None
) -> None:
    expected = parse_window(window) if window else None
    assert parse_bandwidth(text) == Bandwidth(window=expected, rate=rate)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("256", "expected a rate such as `256 kbit/s` or `unlimited`"),
        ("256 kB/s", "expected a rate"),
        ("256 kbps", "expected a rate"),
        ("-1 kbit/s", "expected a rate"),
        ("1,5 Mbit/s", "expected a rate"),
        ("22:00-05:00", "expected a rate"),
        ("128 kbit/s 22:00-05:00", "expected a rate"),
        ("nightly 4 Mbit/s", 'expected a window .* got "nightly"'),
        ("25:00-26:00 4 Mbit/s", "expected times"),
        ("0 kbit/s", 'expected at least 8 kbit/s, got "0 kbit/s"'),
        ("7.999 kbit/s", "expected at least 8 kbit/s"),
    ],
)
def test_what_is_no_limit_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_bandwidth(text)


@given(st.integers(1, 999_999), st.integers(0, 999), st.sampled_from(["k", "M", "G"]))
def test_a_rate_is_shown_as_it_can_be_written(number: int, thousandths: int, prefix: str) -> None:
    try:
        found = parse_bandwidth(f"{number}.{thousandths:03} {prefix}bit/s")
    except ValueError:
        assert prefix == "k"
        assert number < 8
        return
    assert parse_bandwidth(format_rate(found.rate)) == found


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (8_000, "8 kbit/s"),
        (1_500_000, "1.5 Mbit/s"),
        (1_234_567, "1234.567 kbit/s"),
        (10**10, "10 Gbit/s"),
        (None, "unlimited"),
    ],
)
def test_a_rate_for_a_person(rate: int | None, text: str) -> None:
    assert format_rate(rate) == text


@given(ENTRIES)
def test_settings_are_dumped_and_read_again(some: tuple[Bandwidth, ...]) -> None:
    site = Site(bandwidth=some)
    assert Site.model_validate_json(site.model_dump_json()) == site


# --- which rate holds -------------------------------------------------------------------------

OFFICE = entries("Mon-Fri 07:00-19:00 Europe/Berlin 128 kbit/s", "22:00-05:00 4 Mbit/s", "1 Mbit/s")


@pytest.mark.parametrize(
    ("now", "rate", "until"),
    [
        ("2026-03-02T06:00:00Z", 128_000, "2026-03-02T18:00:00Z"),  # a Monday
        ("2026-03-02T18:00:00Z", 1_000_000, "2026-03-02T22:00:00Z"),
        ("2026-03-02T22:00:00Z", 4_000_000, "2026-03-03T05:00:00Z"),
        ("2026-03-02T05:59:59Z", 1_000_000, "2026-03-02T06:00:00Z"),
        ("2026-03-07T12:00:00Z", 1_000_000, "2026-03-07T22:00:00Z"),  # a Saturday
    ],
)
def test_the_first_entry_that_is_open_holds(now: str, rate: int, until: str) -> None:
    assert limit_at(OFFICE, at(now)) == Limit(rate=rate, until=at(until))


def test_without_entries_there_is_no_limit() -> None:
    assert limit_at((), at("2026-03-02T06:00:00Z")) == Limit()


def test_outside_of_all_windows_there_is_no_limit_without_a_default() -> None:
    found = limit_at(OFFICE[:1], at("2026-03-02T20:00:00Z"))
    assert found == Limit(rate=None, until=at("2026-03-03T06:00:00Z"))


def test_the_default_may_stand_first() -> None:
    """The one order of a list that would make its other entries mean nothing."""
    now = at("2026-03-02T23:00:00Z")
    assert limit_at(entries("256 kbit/s", "22:00-05:00 unlimited"), now).rate is None


def test_a_change_that_changes_nothing_is_none() -> None:
    always = entries("00:00-12:00 256 kbit/s", "12:00-00:00 256 kbit/s")
    assert limit_at(always, at("2026-03-02T06:00:00Z")) == Limit(rate=256_000)


@given(ENTRIES, MOMENTS, st.floats(0, 1))
def test_a_limit_holds_until_it_changes(
    some: tuple[Bandwidth, ...], now: datetime, share: float
) -> None:
    found = limit_at(some, now)
    open_now = [each for each in some if each.window and windows.is_open([each.window], now)]
    first = next(iter([*open_now, *(each for each in some if not each.window)]), Bandwidth())
    assert found.rate == first.rate
    end = found.until if found.until is not None else now + windows.AHEAD
    assert end > now
    between = now + (end - now) * min(share, 0.999999)
    assert limit_at(some, between).rate == found.rate
    if found.until is not None:
        assert limit_at(some, found.until).rate != found.rate


@pytest.mark.parametrize("now", [datetime.min, datetime.max.replace(microsecond=0)])
def test_a_clock_at_the_end_of_all_calendars_breaks_nothing(now: datetime) -> None:
    limit_at(OFFICE, now.replace(tzinfo=UTC))
