"""When a machine may reboot: no reboot outside of its window, and no window that is missed."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.site import Window, parse_window
from pipeline.policy import window as policy

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Chatham", "Australia/Lord_Howe")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def windows(*texts: str) -> tuple[Window, ...]:
    return tuple(parse_window(text) for text in texts)


TIMES = st.integers(0, 24 * 60 - 1).map(lambda minutes: time(minutes // 60, minutes % 60))
ANY_WINDOW = st.builds(
    Window,
    days=st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    start=TIMES,
    end=TIMES,
    zone=st.sampled_from(ZONES),
)
SOME = st.lists(ANY_WINDOW, min_size=1, max_size=3).map(tuple)
# A year, in which every zone with summer time changes twice.
MOMENTS = st.integers(0, 365 * 24 * 60).map(lambda m: datetime(2026, 1, 1, tzinfo=UTC) + m * MINUTE)


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        ("02:00-05:00", "2026-03-02T01:59:59Z", False),
        ("02:00-05:00", "2026-03-02T02:00:00Z", True),
        ("02:00-05:00", "2026-03-02T04:59:59Z", True),
        ("02:00-05:00", "2026-03-02T05:00:00Z", False),
        ("02:00-05:00 Europe/Berlin", "2026-03-02T01:00:00Z", True),
        ("02:00-05:00 Europe/Berlin", "2026-07-02T00:00:00Z", True),
        ("Sat 22:00-04:00", "2026-03-07T21:59:00Z", False),
        ("Sat 22:00-04:00", "2026-03-07T22:00:00Z", True),
        ("Sat 22:00-04:00", "2026-03-08T03:59:00Z", True),
        ("Sat 22:00-04:00", "2026-03-08T22:00:00Z", False),
        ("Fri-Mon 02:00-05:00", "2026-03-02T03:00:00Z", True),
        ("Fri-Mon 02:00-05:00", "2026-03-03T03:00:00Z", False),
        ("00:00-00:00", "2026-03-02T13:00:00Z", True),
    ],
)
def test_a_window_is_open_from_its_start_until_its_end(
    window: str, now: str, is_open: bool
) -> None:
    assert policy.is_open(windows(window), at(now)) is is_open


def test_without_a_window_a_machine_may_reboot_at_any_time() -> None:
    assert policy.is_open((), MONDAY)
    assert policy.next_opening((), MONDAY) == MONDAY
    assert policy.judge((), MONDAY).passed


def test_one_of_several_windows_is_enough() -> None:
    some = windows("Sat 02:00-05:00", "Tue 02:00-05:00", "Sun 02:00-05:00")
    assert policy.next_opening(some, MONDAY) == MONDAY + 26 * HOUR


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("window", "day", "length"),
    [
        # 2026-03-29: 02:00 to 03:00 is left out in Berlin.
        ("01:00-04:00", "2026-03-29", 2 * HOUR),
        ("02:30-04:00", "2026-03-29", HOUR),
        ("01:30-02:30", "2026-03-29", HOUR / 2),
        ("02:00-02:45", "2026-03-29", None),
        # 2026-10-25: it is 02:00 to 03:00 twice.
        ("01:00-04:00", "2026-10-25", 4 * HOUR),
        ("02:30-03:30", "2026-10-25", 2 * HOUR),
        ("02:00-02:45", "2026-10-25", 45 * MINUTE),
    ],
)
def test_on_the_days_when_clocks_change_the_clock_on_the_wall_counts(
    window: str, day: str, length: timedelta | None
) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN))
    some = windows(f"{window} {BERLIN}")
    opens = policy.next_opening(some, midnight)
    assert opens is not None
    if length is None:
        assert opens - midnight > 20 * HOUR, "that day's lies wholly in what is left out"
        return
    closes = policy.closing(some, opens)
    assert closes is not None
    assert closes - opens == length


def test_a_window_in_what_is_left_out_opens_again_the_week_after() -> None:
    some = windows(f"Sun 02:00-03:00 {BERLIN}")
    opens = policy.next_opening(some, at("2026-03-28T12:00:00Z"))
    assert opens == at("2026-04-05T00:00:00Z")


@given(SOME, MOMENTS)
def test_the_next_opening_is_open_and_nothing_before_it_is(
    some: tuple[Window, ...], now: datetime
) -> None:
    opens = policy.next_opening(some, now)
    assert opens is not None, "every window with a day opens some time"
    assert opens >= now
    assert policy.is_open(some, opens)
    if opens > now:
        assert not policy.is_open(some, now)
        assert not policy.is_open(some, opens - timedelta(seconds=1))
        between = now + (opens - now) / 2
        assert not policy.is_open(some, between)


@given(SOME, MOMENTS)
def test_what_is_open_shows_a_time_of_the_window_on_the_wall(
    some: tuple[Window, ...], now: datetime
) -> None:
    """The other way to say it, for days when no clock changes."""
    zones = [ZoneInfo(each.zone) for each in some]
    days = [now + step * 24 * HOUR for step in (-2, -1, 0, 1, 2)]
    if any(len({day.astimezone(zone).utcoffset() for day in days}) > 1 for zone in zones):
        return
    shown = False
    for each, zone in zip(some, zones, strict=True):
        local = now.astimezone(zone)
        wall, today = local.time(), local.weekday()
        yesterday = (today - 1) % 7
        if each.start < each.end:
            shown |= today in each.days and each.start <= wall < each.end
        else:
            shown |= today in each.days and wall >= each.start
            shown |= yesterday in each.days and wall < each.end
    assert policy.is_open(some, now) is shown


@given(SOME, MOMENTS)
def test_no_window_lasts_longer_than_a_day_and_a_changed_hour(
    some: tuple[Window, ...], now: datetime
) -> None:
    closes = policy.closing(some, now)
    assert (closes is not None) == policy.is_open(some, now)
    if closes is not None:
        assert timedelta() < closes - now <= 25 * HOUR


def test_a_zone_that_is_not_known_is_utc_and_told() -> None:
    some = (
        *windows("02:00-03:00 Mars/Olympus", "04:00-05:00 Mars/Olympus", "06:00-07:00 UTC"),
        *windows("02:00-03:00 Europe"),
    )
    assert policy.unknown_zones(some) == ("Mars/Olympus", "Europe")
    assert policy.is_open(some, MONDAY + 2.5 * HOUR)


def test_a_machine_says_when_its_window_opens() -> None:
    some = windows("Sat 22:00-04:00 Europe/Berlin")
    gate = policy.judge(some, MONDAY)
    assert (gate.name, gate.passed) == ("window", False)
    assert gate.reason == "its window opens at 2026-03-07T21:00:00Z, in 141h00m"
    assert gate.opens == at("2026-03-07T21:00:00Z")
    there = policy.judge(some, at("2026-03-07T23:00:00Z"))
    assert there.passed
    assert there.reason == "its window is open until 2026-03-08T03:00:00Z"


def test_a_person_need_not_wait_for_the_window() -> None:
    gate = policy.judge(windows("02:00-03:00"), MONDAY, override=True)
    assert gate.passed
    assert "a person" in gate.reason


def test_a_window_without_days_never_opens_and_says_so() -> None:
    never = Window(days=(), start=time(2), end=time(3))
    assert policy.next_opening((never,), MONDAY) is None
    assert policy.judge((never,), MONDAY).reason == "its window never opens"


@pytest.mark.parametrize("now", [datetime.min, datetime.max.replace(microsecond=0)])
def test_a_clock_at_the_end_of_all_calendars_breaks_nothing(now: datetime) -> None:
    policy.judge(windows("Sat 22:00-04:00 Europe/Berlin"), now.replace(tzinfo=UTC))
