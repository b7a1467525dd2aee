"""What a pointer becomes when a release moves: history, what others run, and what is revoked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.channels.pointers import (
    is_newer,
    moved,
    new_rollout,
    parse_waves,
    return_targets,
    revoked,
)
from pipeline.errors import UsageError
from pipeline.models.channel import ALL_AT_ONCE, Wave
from pipeline.models.pointer import Pointer, Revocation
from pipeline.policy.rollout import halt
from tests.fakes.pointers import make_published
from tests.fakes.stored import MOMENT

KEEP = 3
SLOW = (Wave(share=0.1, soak=3600.0), Wave(share=1.0))
HOUR = timedelta(hours=1)


def move(pointer: Pointer | None, number: int, hour: int, waves: tuple[Wave, ...]) -> Pointer:
    release = make_published("web", number)
    rollout = new_rollout("stable", release, waves, MOMENT + hour * HOUR)
    return moved(pointer, "stable", release, rollout, keep=KEEP)


def revoke(pointer: Pointer, number: int) -> Pointer:
    release = make_published("web", number)
    revocation = Revocation(
        version=release.version, root_hash=release.root_hash, reason="bad", when=MOMENT
    )
    return revoked(pointer, "stable", "web", revocation) or pointer


def through(*numbers: int, waves: tuple[Wave, ...] = ALL_AT_ONCE) -> Pointer:
    pointer: Pointer | None = None
    for hour, number in enumerate(numbers):
        pointer = move(pointer, number, 10 * hour, waves)
    assert pointer is not None
    return pointer


def version(number: int) -> str:
    return make_published("web", number).version


def test_the_first_release_of_an_image_has_no_past() -> None:
    pointer = through(1)
    assert pointer.release == make_published("web", 1)
    assert (pointer.history, pointer.previous, pointer.since) == ((), None, MOMENT)
    assert pointer.rollout is not None
    assert pointer.rollout.opened == MOMENT


def test_history_is_the_newest_first_and_without_the_present() -> None:
    pointer = through(1, 2, 3)
    assert [held.version for held in pointer.history] == [version(2), version(1)]
    first = pointer.history[1]
    assert (first.since, first.until) == (MOMENT, MOMENT + 10 * HOUR)
    assert first.manifest == make_published("web", 1).manifest.digest


def test_going_back_keeps_what_was_left_in_history() -> None:
    pointer = through(1, 2, 1)
    assert pointer.release == make_published("web", 1)
    assert [held.version for held in pointer.history] == [version(2)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.sets(st.integers(1, 6)))
def test_history_holds_what_it_can_go_back_to_and_no_more(
    numbers: list[int], bad: set[int]
) -> None:
    pointer: Pointer | None = None
    for hour, number in enumerate(numbers):
        if pointer is None or pointer.release != make_published("web", number):
            pointer = move(pointer, number, hour, ALL_AT_ONCE)
            for each in bad:
                pointer = revoke(pointer, each)
    assert pointer is not None
    assert pointer.release is not None
    versions = [held.version for held in pointer.history]
    assert len(versions) == len(set(versions))
    assert pointer.release.version not in versions
    assert [held.until for held in pointer.history] == sorted(
        (held.until for held in pointer.history), reverse=True
    )
    good = [name for name in versions if name not in {version(each) for each in bad}]
    assert len(good) <= KEEP
    seen = list(dict.fromkeys(version(n) for n in reversed(numbers)))
    wanted = [name for name in seen[1:] if name not in {version(each) for each in bad}]
    assert good[:1] == wanted[:1], "what it came from"
    assert good == [name for name in wanted if name in good], "the newest first"


def test_machines_that_were_not_reached_run_what_had_spread_everywhere() -> None:
    cut_short = move(through(1, waves=SLOW), 2, 10, SLOW)
    assert cut_short.previous == make_published("web", 1)
    # Release 2 has reached a tenth when release 3 comes half an hour later.
    hasty = moved(
        cut_short,
        "stable",
        make_published("web", 3),
        new_rollout("stable", make_published("web", 3), SLOW, MOMENT + 10.5 * HOUR),
        keep=KEEP,
    )
    assert hasty.previous == make_published("web", 1)
    assert move(cut_short, 3, 12, SLOW).previous == make_published("web", 2)


def test_what_was_halted_or_revoked_is_not_given_to_the_rest_of_the_machines() -> None:
    spread = through(1, 2)
    assert spread.rollout is not None
    halted = spread.model_copy(update={"rollout": halt(spread.rollout, MOMENT + 20 * HOUR)})
    assert move(halted, 3, 30, SLOW).previous == make_published("web", 1)
    assert move(revoke(spread, 2), 3, 30, SLOW).previous == make_published("web", 1)
    assert move(revoke(revoke(spread, 2), 1), 3, 30, SLOW).previous is None


def test_a_channel_goes_back_to_what_is_older_first() -> None:
    pointer = through(1, 2, 3, 2)
    assert [held.version for held in return_targets(pointer)] == [version(1), version(3)]
    assert [is_newer(held, pointer) for held in return_targets(pointer)] == [False, True]
    assert [held.version for held in return_targets(revoke(pointer, 1))] == [version(3)]


def test_revoking_twice_changes_nothing() -> None:
    once = revoke(through(1), 5)
    release = make_published("web", 5)
    again = Revocation(
        version=release.version, root_hash=release.root_hash, reason="other words", when=MOMENT
    )
    assert revoked(once, "stable", "web", again) is None
    assert len(once.revoked) == 1


def test_a_release_can_be_revoked_before_the_channel_holds_anything() -> None:
    release = make_published("web", 1)
    revocation = Revocation(
        version=release.version, root_hash=release.root_hash, reason="bad", when=MOMENT
    )
    pointer = revoked(None, "stable", "web", revocation, frozen="a holiday")
    assert pointer is not None
    assert pointer.release is None
    assert (pointer.revoked, pointer.frozen) == ((revocation,), "a holiday")
    assert move(pointer, 2, 1, ALL_AT_ONCE).revoked == (revocation,)


def test_a_rollout_that_is_decided_twice_is_one_rollout() -> None:
    release = make_published("web", 1)
    one, two = (new_rollout("stable", release, SLOW, MOMENT) for _ in range(2))
    assert one == two
    others = {
        new_rollout("candidate", release, SLOW, MOMENT).id,
        new_rollout("stable", release, SLOW, MOMENT + HOUR).id,
        new_rollout("stable", make_published("web", 2), SLOW, MOMENT).id,
    }
    assert len(others) == 3
    assert one.id not in others


def test_waves_are_written_as_a_person_would() -> None:
    assert parse_waves("10%:1h, 50% : 4h ,100%") == (
        Wave(share=0.1, soak=3600.0),
        Wave(share=0.5, soak=14400.0),
        Wave(share=1.0),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "wave 1: expected a share"),
        ("10%", "expected the last wave to have the share 100%"),
        ("10:1h,100%", "wave 1: expected a share"),
        ("50%:1h,10%:1h,100%", "wave 2: expected a larger share"),
        ("10%:soon,100%", "wave 1: expected a length of time"),
        ("10%,100%", "wave 1: expected some time"),
    ],
)
def test_waves_that_are_none_are_refused_in_words(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match="is no list of waves") as caught:
        parse_waves(text)
    assert problem in caught.value.message
    assert "10%:1h,50%:4h,100%" in caught.value.hint
