"""Which device begins when: the laws that all devices keep to without asking each other."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.models.channel import ALL_AT_ONCE, Wave
from pipeline.models.pointer import Rollout
from pipeline.policy import rollout as policy

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAVES = (Wave(share=0.1, soak=3600.0), Wave(share=0.5, soak=4 * 3600.0), Wave(share=1.0))
Step = Callable[[Rollout, datetime], Rollout]
DEVICES = [f"device-{number:05}" for number in range(10_000)]


def rolling(waves: tuple[Wave, ...] = WAVES, id: str = "0123456789abcdef") -> Rollout:
    return policy.start(waves, T0, id)


def at_place(rollout: Rollout, low: float, high: float) -> str:
    return next(d for d in DEVICES if low <= policy.position(rollout.id, d) < high)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    shares = sorted(draw(st.sets(st.integers(1, 9999), max_size=5)))
    soaks = st.integers(1, 10**6).map(float) | st.floats(1.0, 1e6)
    waves = (*(Wave(share=s / 10_000, soak=draw(soaks)) for s in shares), Wave(share=1.0))
    return Rollout(
        id=draw(st.text(min_size=8, max_size=16)),
        waves=waves,
        wave=draw(st.integers(0, len(waves) - 1)),
        opened=T0,
        state=draw(st.sampled_from(["rolling", "held", "halted"])),
    )


MOMENTS = st.floats(-1e7, 1e8).map(lambda seconds: T0 + timedelta(seconds=seconds))
NAMES = st.text(min_size=1, max_size=20)


# --- places


GOLDEN = {
    ("rollout-1", "site-a/edge-1"): 0.4154239607317638,
    ("rollout-1", "site-a/edge-2"): 0.34021614475101414,
    ("rollout-2", "site-a/edge-1"): 0.19752359944022002,
    ("0123456789abcdef", "münchen-7"): 0.6507511658664877,
}


@pytest.mark.parametrize(("rollout", "device"), GOLDEN)
def test_a_place_is_the_same_on_every_host_and_for_ever(rollout: str, device: str) -> None:
    assert policy.position(rollout, device) == GOLDEN[rollout, device]


def test_a_place_does_not_hang_on_the_process() -> None:
    """Python's own hash differs from process to process; this one must not."""
    code = "from pipeline.policy.rollout import position; print(repr(position('r' * 8, 'edge')))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {repr(policy.position("r" * 8, "edge"))}


@given(NAMES, NAMES)
def test_a_place_is_in_zero_to_one(rollout: str, device: str) -> None:
    assert 0 <= policy.position(rollout, device) < 1


@pytest.mark.parametrize("id", ["first-rollout", "second-rollout", "a" * 64])
def test_devices_are_spread_evenly(id: str) -> None:
    counts = [0] * 100
    for device in DEVICES:
        counts[int(policy.position(id, device) * 100)] += 1
    expected = len(DEVICES) / 100
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_square < 150, "with 99 degrees of freedom only one in 1,400 is above"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_wave_reaches_the_share_that_it_names(share: float) -> None:
    reached = sum(policy.position("some-rollout", device) < share for device in DEVICES)
    deviation = math.sqrt(share * (1 - share) * len(DEVICES))
    assert abs(reached - share * len(DEVICES)) < 4 * deviation


def test_no_device_is_always_the_first() -> None:
    """Places in two rollouts have nothing to do with each other: correlation and overlap."""
    one = [policy.position("rollout-one", device) for device in DEVICES]
    two = [policy.position("rollout-two", device) for device in DEVICES]
    mean_one, mean_two = sum(one) / len(one), sum(two) / len(two)
    covariance = sum((a - mean_one) * (b - mean_two) for a, b in zip(one, two, strict=True))
    assert abs(covariance / len(one) * 12) < 0.04, "4 standard deviations of no correlation"
    first_in_both = sum(a < 0.1 and b < 0.1 for a, b in zip(one, two, strict=True))
    assert 60 < first_in_both < 140, "100 by chance"


@given(rollouts(), NAMES, MOMENTS, MOMENTS)
def test_who_may_start_may_start_from_then_on(
    rollout: Rollout, device: str, one: datetime, two: datetime
) -> None:
    early, late = sorted((one, two))
    assert policy.share(rollout, early) <= policy.share(rollout, late)
    assert policy.wave_at(rollout, early) <= policy.wave_at(rollout, late)
    if policy.may_start(rollout, device, early).allowed:
        assert policy.may_start(rollout, device, late).allowed


@given(rollouts(), NAMES, MOMENTS)
def test_a_device_may_start_when_the_open_share_is_larger_than_its_place(
    rollout: Rollout, device: str, now: datetime
) -> None:
    verdict = policy.may_start(rollout, device, now)
    assert verdict.allowed == (policy.position(rollout.id, device) < policy.share(rollout, now))
    assert [gate.name for gate in verdict.gates] == ["not frozen", "not halted", "wave"]
    assert all(gate.reason for gate in verdict.gates)


@given(rollouts(), NAMES, MOMENTS)
def test_when_it_says_that_it_opens_it_opens_and_not_before(
    rollout: Rollout, device: str, now: datetime
) -> None:
    opens = policy.may_start(rollout, device, now).opens
    if opens is not None:
        assert opens > now
        assert policy.may_start(rollout, device, opens).allowed
        assert not policy.may_start(rollout, device, opens - timedelta(milliseconds=1)).allowed


@given(rollouts(), NAMES, MOMENTS)
def test_a_frozen_channel_lets_nobody_start(rollout: Rollout, device: str, now: datetime) -> None:
    verdict = policy.may_start(rollout, device, now, frozen="power cut at the plant")
    assert not verdict.allowed
    assert "power cut at the plant" in verdict.refusals[0].reason


# --- waves


def test_each_wave_opens_when_the_one_before_has_soaked() -> None:
    rollout = rolling()
    seen = [
        (
            hours,
            policy.wave_at(rollout, T0 + hours * HOUR),
            policy.share(rollout, T0 + hours * HOUR),
        )
        for hours in (0, 0.99, 1, 4.99, 5, 1000)
    ]
    assert seen == [
        (0, 0, 0.1),
        (0.99, 0, 0.1),
        (1, 1, 0.5),
        (4.99, 1, 0.5),
        (5, 2, 1.0),
        (1000, 2, 1.0),
    ]


def test_the_plan_tells_when_each_wave_opens() -> None:
    rollout = rolling()
    assert [policy.opening(rollout, wave) for wave in range(3)] == [T0, T0 + HOUR, T0 + 5 * HOUR]
    assert policy.next_opening(rollout, T0) == T0 + HOUR
    assert policy.next_opening(rollout, T0 + HOUR) == T0 + 5 * HOUR
    assert policy.next_opening(rollout, T0 + 5 * HOUR) is None
    later = policy.advance(rollout, T0)
    assert policy.opening(later, 0) is None, "when the first one opened is not kept"


@given(rollouts(), MOMENTS)
def test_the_next_opening_is_when_the_wave_changes(rollout: Rollout, now: datetime) -> None:
    wave, opens = policy.wave_at(rollout, now), policy.next_opening(rollout, now)
    if opens is None:
        assert rollout.state != "rolling" or wave == len(rollout.waves) - 1
    else:
        assert opens > now
        assert policy.wave_at(rollout, opens) > wave
        assert policy.wave_at(rollout, opens - timedelta(milliseconds=1)) == wave


@given(rollouts())
def test_a_rollout_that_is_left_alone_reaches_everybody(rollout: Rollout) -> None:
    in_the_end = T0 + timedelta(seconds=sum(wave.soak for wave in rollout.waves) + 1)
    if rollout.state == "rolling":
        assert policy.share(rollout, in_the_end) == 1.0
        assert policy.may_start(rollout, "any", in_the_end).allowed


def test_a_clock_that_is_behind_closes_no_wave_that_was_signed_as_open() -> None:
    rollout = policy.advance(rolling(), T0)
    assert policy.share(rollout, T0 - 1000 * HOUR) == 0.5


def test_all_at_once_is_one_wave() -> None:
    rollout = rolling(ALL_AT_ONCE)
    assert policy.share(rollout, T0) == 1.0
    assert policy.next_opening(rollout, T0) is None


def test_a_wave_that_is_not_there_is_the_last() -> None:
    rollout = rolling().model_copy(update={"wave": 7})
    assert policy.share(rollout, T0) == 1.0
    assert policy.next_opening(rollout, T0) is None
    assert policy.may_start(rollout, "any", T0).allowed


def test_a_plan_beyond_all_calendars_can_be_reckoned_with() -> None:
    far = rolling().model_copy(update={"opened": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)})
    device = at_place(far, 0.6, 1.0)
    verdict = policy.may_start(far, device, T0)
    assert not verdict.allowed
    assert verdict.opens is not None
    assert policy.next_opening(far, T0)


def test_a_device_is_told_where_it_is_and_when_it_opens() -> None:
    rollout = rolling()
    device = at_place(rollout, 0.1, 0.5)
    wave = policy.may_start(rollout, device, T0 + HOUR / 2).gates[-1]
    assert not wave.passed
    assert wave.reason.startswith("in wave 2 of 3, at ")
    assert wave.reason.endswith("of all devices: opens at 2026-03-01T13:00:00Z, in 30m00s")
    assert wave.opens == T0 + HOUR
    assert policy.may_start(rollout, device, T0 + HOUR).gates[-1].reason.endswith(": open")


# --- steering


def test_a_held_rollout_goes_on_where_it_is_open_and_opens_no_further() -> None:
    held = policy.hold(rolling(), T0 + 2 * HOUR)
    assert (held.state, held.wave, held.opened) == ("held", 1, T0 + HOUR)
    much_later = T0 + 1000 * HOUR
    assert policy.share(held, much_later) == 0.5
    assert policy.next_opening(held, much_later) is None
    assert policy.may_start(held, at_place(held, 0.0, 0.5), much_later).allowed
    waiting = policy.may_start(held, at_place(held, 0.5, 1.0), much_later)
    assert not waiting.allowed
    assert waiting.opens is None
    assert "the rollout is held" in waiting.refusals[0].reason


def test_a_halted_rollout_lets_nobody_start() -> None:
    halted = policy.halt(rolling(), T0 + 2 * HOUR)
    assert (halted.state, halted.wave) == ("halted", 1)
    assert policy.share(halted, T0 + 1000 * HOUR) == 0.0
    assert policy.reached(halted, T0 + 1000 * HOUR) == 0.5
    for device in (at_place(halted, 0.0, 0.1), at_place(halted, 0.5, 1.0)):
        verdict = policy.may_start(halted, device, T0 + 1000 * HOUR)
        assert not verdict.allowed
        assert verdict.opens is None


@pytest.mark.parametrize("stop", [policy.hold, policy.halt])
def test_it_goes_on_at_its_wave_with_a_fresh_soak(stop: Step) -> None:
    stood = stop(rolling(), T0 + 2 * HOUR)
    back = T0 + 100 * HOUR
    resumed = policy.resume(stood, back)
    assert policy.share(resumed, back) == 0.5
    assert policy.next_opening(resumed, back) == back + 4 * HOUR


def test_advancing_opens_the_next_wave_now() -> None:
    first = policy.advance(rolling(), T0)
    assert policy.share(first, T0) == 0.5
    assert policy.next_opening(first, T0) == T0 + 4 * HOUR
    assert policy.share(policy.advance(first, T0), T0) == 1.0


def test_a_held_rollout_can_be_led_by_hand() -> None:
    held = policy.advance(policy.hold(rolling(), T0), T0 + HOUR)
    assert (held.state, policy.share(held, T0 + 1000 * HOUR)) == ("held", 0.5)


REFUSED: dict[str, tuple[Callable[[Rollout], Rollout], str]] = {
    "no further wave": (lambda r: policy.advance(r, T0 + 5 * HOUR), "all waves are open"),
    "advance halted": (lambda r: policy.advance(policy.halt(r, T0), T0), "is halted"),
    "hold twice": (lambda r: policy.hold(policy.hold(r, T0), T0), "is held already"),
    "hold halted": (lambda r: policy.hold(policy.halt(r, T0), T0), "is halted already"),
    "nothing to hold": (lambda r: policy.hold(r, T0 + 5 * HOUR), "would stop nobody"),
    "halt twice": (lambda r: policy.halt(policy.halt(r, T0), T0), "is halted already"),
    "resume rolling": (lambda r: policy.resume(r, T0), "neither held nor halted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_a_next_step(case: str) -> None:
    act, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        act(rolling())
    assert "recast roll" in caught.value.hint


STEPS = st.lists(
    st.tuples(
        st.sampled_from([policy.advance, policy.hold, policy.halt, policy.resume]),
        st.integers(0, 10**5),
    ),
    max_size=8,
)


@given(rollouts().filter(lambda r: r.state == "rolling"), STEPS)
def test_however_it_is_steered_no_open_wave_closes_and_its_waves_and_places_stay(
    rollout: Rollout, steps: list[tuple[Step, int]]
) -> None:
    now, changed = T0, rollout
    for step, seconds in steps:
        now += timedelta(seconds=seconds)
        before = policy.reached(changed, now)
        try:
            after = step(changed, now)
        except UsageError:
            continue
        assert policy.reached(after, now) >= before
        assert (after.id, after.waves) == (rollout.id, rollout.waves)
        assert Rollout.model_validate_json(after.model_dump_json()) == after
        changed = after
    shares = [policy.reached(changed, now + hours * HOUR) for hours in range(0, 100, 7)]
    assert all(one <= two for one, two in pairwise(shares))


def test_a_device_needs_little_to_decide() -> None:
    """The agent imports this module: no store, no trust, no network."""
    code = (
        "import sys, pipeline.policy.rollout; "
        "print(*[m for m in sys.modules if m.split('.')[0] in "
        "('yaml', 'click', 'requests', 'tuf', 'boto3', 'securesystemslib', 'cryptography') "
        "or m.startswith(('pipeline.store', 'pipeline.trust', 'pipeline.engine'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == ""
