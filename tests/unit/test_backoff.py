"""When a machine asks its store again: no herd, no hammering, and no machine that never asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy import backoff

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLL = 900.0
NAMES = st.text(min_size=1, max_size=30)
POLLS = st.floats(10.0, 7 * 86400.0)
CHANCES = st.floats(0.0, 1.0, exclude_max=True)
FAILURES = st.integers(0, 10_000)


@given(NAMES, POLLS, CHANCES)
def test_a_store_that_answers_is_asked_at_most_once_in_a_poll(
    device: str, poll: float, chance: float
) -> None:
    assert poll <= backoff.pause(device, poll, 0, chance) <= poll * 1.25


@given(NAMES, POLLS, FAILURES, CHANCES)
def test_no_pause_is_longer_than_the_longest_and_none_is_a_hammer(
    device: str, poll: float, failures: int, chance: float
) -> None:
    pause = backoff.pause(device, poll, failures, chance)
    assert min(poll, 60.0) <= pause <= backoff.longest(poll)


@given(NAMES, POLLS, st.integers(1, 100), CHANCES)
def test_each_failure_makes_the_pause_no_shorter(
    device: str, poll: float, failures: int, chance: float
) -> None:
    once = backoff.pause(device, poll, failures, chance)
    assert backoff.pause(device, poll, failures + 1, chance) >= once


def test_a_slip_of_the_link_costs_a_minute_and_a_long_outage_hours() -> None:
    pauses = [backoff.pause("edge-1", POLL, failures, 0.0) for failures in range(1, 12)]
    assert pauses[0] < 80
    assert pauses[4] > POLL
    assert 6 * 3600 <= pauses[-1] <= 7.5 * 3600


def test_a_week_between_two_looks_stays_a_week_when_they_fail() -> None:
    week = 7 * 86400.0
    assert backoff.pause("edge-1", week, 40, 0.0) >= week


def test_machines_that_were_powered_on_together_part() -> None:
    pauses = sorted(backoff.pause(f"edge-{n}", POLL, 0, 0.0) for n in range(1000))
    in_one_second = max(sum(first <= each < first + 1 for each in pauses) for first in pauses[::10])
    assert pauses[-1] - pauses[0] > POLL / 10
    assert in_one_second < 40


def test_the_same_machine_has_the_same_pause_and_chance_changes_it() -> None:
    assert backoff.pause("edge-1", POLL, 0, 0.5) == backoff.pause("edge-1", POLL, 0, 0.5)
    assert backoff.pause("edge-1", POLL, 0, 0.9) > backoff.pause("edge-1", POLL, 0, 0.1)


# --- clocks that jump


@pytest.mark.parametrize(
    ("checked", "next", "due"),
    [
        (None, None, True),
        (NOW - HOUR, NOW - HOUR / 2, True),
        (NOW - HOUR / 8, NOW, True),
        (NOW - HOUR / 8, NOW + HOUR / 8, False),
        (NOW - HOUR / 8, NOW + 7 * HOUR, False),
        (NOW - HOUR / 8, NOW + 8 * HOUR, True),
        (NOW + 1000 * HOUR, NOW + HOUR / 8, True),
        (NOW + 1000 * HOUR, NOW + 1000 * HOUR, True),
        (None, NOW + HOUR / 8, False),
    ],
)
def test_a_store_is_asked_when_it_is_time_or_when_the_clock_has_jumped(
    checked: datetime | None, next: datetime | None, due: bool
) -> None:
    assert backoff.due(NOW, checked, next, backoff.longest(POLL)) is due


MOMENTS = st.floats(-1e9, 1e9).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(MOMENTS, MOMENTS, MOMENTS, POLLS)
def test_wherever_a_clock_was_the_store_is_asked_within_the_longest_pause(
    now: datetime, checked: datetime, next: datetime, poll: float
) -> None:
    longest = backoff.longest(poll)
    later = now + timedelta(seconds=longest)
    assert backoff.due(now, checked, next, longest) or backoff.due(later, checked, next, longest)


@given(MOMENTS, st.lists(st.none() | MOMENTS, max_size=4), POLLS)
def test_the_next_run_is_never_at_once_and_never_far(
    now: datetime, moments: list[datetime | None], poll: float
) -> None:
    assert 1.0 <= backoff.remaining(now, moments, poll) <= backoff.longest(poll)


def test_the_next_run_is_at_the_first_of_what_comes() -> None:
    assert backoff.remaining(NOW, [NOW + HOUR, None, NOW + HOUR / 2], POLL) == 1800.0


def test_a_clock_before_what_has_happened_is_told() -> None:
    told = backoff.clock_problem(datetime(2020, 1, 1, tzinfo=UTC), [None, NOW, NOW - HOUR])
    assert told == (
        "this machine's clock says 2020-01-01T00:00:00Z, and it is 2026-03-02T08:00:00Z or later"
    )
    assert backoff.clock_problem(NOW, [NOW + timedelta(minutes=1), None]) == ""
    assert backoff.clock_problem(NOW, []) == ""
