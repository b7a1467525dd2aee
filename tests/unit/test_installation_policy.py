"""What a machine should run, and whether it may begin: the rules that all sites rely on."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.channels.pointers import moved, new_rollout
from pipeline.models.channel import Wave
from pipeline.models.device import Pin, Running, State
from pipeline.models.pointer import Pointer, PublishedRelease, Revocation
from pipeline.models.site import Site
from pipeline.policy import installation as policy
from pipeline.policy import rollout as waves
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Gate, Verdict
from tests.fakes.devices import attempt, known_bad, running
from tests.fakes.pointers import make_published

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAVES = (Wave(share=0.1, soak=3600.0), Wave(share=0.5, soak=7200.0), Wave(share=1.0))
ANCIENT, OLD, NEW, OTHER = (make_published("edge-web", number) for number in (1, 2, 3, 4))
GATES = [
    "confirmed", "machine class", "not revoked", "not failed here", "not frozen", "not halted",
    "wave",
]  # fmt: skip


def pointing(new: PublishedRelease = NEW, old: PublishedRelease | None = OLD) -> Pointer:
    """A channel that was all on *old*, and takes up *new* now."""
    before = None
    if old is not None:
        then = new_rollout("stable", old, (Wave(share=1.0),), NOW - 100 * HOUR)
        before = moved(None, "stable", old, then, keep=5)
    return moved(before, "stable", new, new_rollout("stable", new, WAVES, NOW), keep=5)


POINTER = pointing()


def site_in_wave(number: int, pointer: Pointer = POINTER, **changes: object) -> Site:
    rollout = pointer.rollout
    assert rollout is not None
    low = 0.0 if number == 1 else WAVES[number - 2].share
    name = next(
        name
        for name in (f"edge-{n}" for n in range(1000))
        if low <= waves.position(rollout.id, name) < WAVES[number - 1].share
    )
    return Site.model_validate({"device": name, "channel": "stable", **changes})


FIRST, LAST = site_in_wave(1), site_in_wave(3)


def revoking(pointer: Pointer, *releases: PublishedRelease, reason: str = "it leaks") -> Pointer:
    revoked = tuple(
        Revocation(version=r.version, root_hash=r.root_hash, reason=reason, when=NOW)
        for r in releases
    )
    return pointer.model_copy(update={"revoked": revoked})


def steered(pointer: Pointer, state: str) -> Pointer:
    assert pointer.rollout is not None
    rollout = pointer.rollout.model_copy(update={"state": state})
    return pointer.model_copy(update={"rollout": rollout})


def decide(
    pointer: Pointer = POINTER,
    site: Site = FIRST,
    here: PublishedRelease | Running = OLD,
    state: State | None = None,
    *,
    now: datetime = NOW,
    override: bool = False,
    attested: Gate | None = None,
) -> tuple[Wanted, Verdict]:
    runs = here if isinstance(here, Running) else running(here)
    facts = (pointer, site, runs, state or State(), now)
    wanted = policy.wanted(*facts, override=override)
    return wanted, policy.judge(wanted, *facts, override=override, attested=attested)


def refusals(verdict: Verdict) -> list[str]:
    return [gate.name for gate in verdict.refusals]


# --- the channel and its rollout


def test_a_machine_whose_wave_is_open_wants_the_channels_release_and_may_begin() -> None:
    wanted, verdict = decide()
    assert (wanted.release, wanted.kind, wanted.settled) == (NEW, "channel", False)
    assert [gate.name for gate in verdict.gates] == GATES
    assert verdict.allowed


def test_a_machine_whose_wave_is_not_open_waits_and_is_told_until_when() -> None:
    wanted, verdict = decide(site=LAST)
    assert wanted.release is NEW, "what it waits for"
    assert refusals(verdict) == ["wave"]
    assert verdict.opens == NOW + 3 * HOUR
    assert decide(site=LAST, now=NOW + 3 * HOUR)[1].allowed


def test_what_runs_already_needs_nothing_even_before_its_wave() -> None:
    for site in (FIRST, LAST):
        wanted, _ = decide(site=site, here=NEW)
        assert wanted.settled
        assert wanted.release is NEW


@pytest.mark.parametrize("state", ["held", "halted"])
def test_a_rollout_that_stands_sends_nobody_back(state: str) -> None:
    wanted, _ = decide(steered(POINTER, state), LAST, NEW)
    assert wanted.settled


def test_a_machine_from_a_drawer_is_brought_to_what_had_spread_everywhere() -> None:
    wanted, verdict = decide(site=LAST, here=ANCIENT)
    assert (wanted.release, wanted.kind) == (OLD, "previous")
    assert verdict.allowed
    assert OLD.version in wanted.why
    assert decide(site=FIRST, here=ANCIENT)[0].release is NEW, "in its wave it goes on at once"


def test_what_had_spread_is_given_to_a_machine_though_the_rollout_after_it_is_halted() -> None:
    wanted, verdict = decide(steered(POINTER, "halted"), FIRST, ANCIENT)
    assert wanted.release is OLD
    assert verdict.allowed


def test_a_machine_on_a_release_that_was_replaced_on_its_way_waits_for_its_wave() -> None:
    after = moved(POINTER, "stable", OTHER, new_rollout("stable", OTHER, WAVES, NOW), keep=5)
    assert after.previous == OLD
    wanted, verdict = decide(after, site_in_wave(3, after), NEW)
    assert wanted.release is OTHER
    assert refusals(verdict) == ["wave"]


def test_a_rollback_is_an_update_like_others() -> None:
    back = moved(POINTER, "stable", OLD, new_rollout("stable", OLD, WAVES, NOW), keep=5)
    wanted, verdict = decide(back, site_in_wave(1, back), NEW)
    assert wanted.release == OLD
    assert verdict.allowed
    assert refusals(decide(back, site_in_wave(3, back), NEW)[1]) == ["wave"]


def test_a_first_release_waits_for_its_wave_where_there_was_none_before() -> None:
    first = pointing(NEW, None)
    wanted, verdict = decide(first, site_in_wave(3, first), ANCIENT)
    assert wanted.release is NEW
    assert refusals(verdict) == ["wave"]


def test_the_same_bytes_under_another_version_are_no_reason_to_reboot() -> None:
    again = NEW.model_copy(update={"root_hash": OLD.root_hash, "boot_digest": OLD.boot_digest})
    assert decide(pointing(again))[0].settled
    other_boot = again.model_copy(update={"boot_digest": "another kernel"})
    assert not decide(pointing(other_boot))[0].settled


def test_a_channel_that_holds_nothing_leaves_machines_as_they_are() -> None:
    empty = Pointer(channel="stable", image="edge-web")
    wanted, verdict = decide(empty)
    assert (wanted.release, wanted.kind, wanted.settled) == (None, "stay", True)
    assert "channel stable holds no release of edge-web" in wanted.why
    assert refusals(verdict) == ["available"]


# --- frozen, halted, and those who have begun


def test_a_frozen_channel_stops_those_that_have_not_begun_and_says_why() -> None:
    frozen = POINTER.model_copy(update={"frozen": "the plant is inspected"})
    _, verdict = decide(frozen)
    assert refusals(verdict) == ["not frozen"]
    assert "the plant is inspected" in verdict.refusals[0].reason


def test_a_halted_rollout_stops_those_that_have_not_begun() -> None:
    wanted, verdict = decide(steered(POINTER, "halted"))
    assert wanted.release is NEW
    assert "not halted" in refusals(verdict)


STANDING = [POINTER.model_copy(update={"frozen": "so"}), steered(POINTER, "halted")]


@pytest.mark.parametrize("pointer", STANDING, ids=["frozen", "halted"])
@pytest.mark.parametrize("step", ["chosen", "written", "verified", "staged"])
def test_who_is_still_preparing_waits_where_it_stands(pointer: Pointer, step: str) -> None:
    state = State(attempt=attempt(NEW, step, NOW))  # type: ignore[arg-type]
    wanted, verdict = decide(pointer, FIRST, OLD, state)
    assert wanted.release is NEW, "nothing else is begun meanwhile"
    assert not verdict.allowed


@pytest.mark.parametrize("pointer", STANDING, ids=["frozen", "halted"])
def test_what_is_activated_is_finished(pointer: Pointer) -> None:
    state = State(attempt=attempt(NEW, "activated", NOW))
    wanted, verdict = decide(pointer, LAST, OLD, state)
    assert wanted.release is NEW
    assert verdict.allowed


def test_what_is_activated_is_not_finished_if_it_is_revoked_meanwhile() -> None:
    state = State(attempt=attempt(NEW, "activated", NOW))
    wanted, _ = decide(revoking(POINTER, NEW), FIRST, OLD, state)
    assert wanted.release is OLD
    assert wanted.settled


def test_what_is_activated_is_not_finished_if_the_channel_went_elsewhere() -> None:
    state = State(attempt=attempt(NEW, "activated", NOW))
    back = moved(POINTER, "stable", OLD, new_rollout("stable", OLD, WAVES, NOW), keep=5)
    assert decide(back, site_in_wave(1, back), OLD, state)[0].settled


def test_who_has_begun_does_not_wait_for_its_wave_again() -> None:
    state = State(attempt=attempt(NEW, "written", NOW))
    _, verdict = decide(site=LAST, state=state, now=NOW - 1000 * HOUR)
    assert verdict.allowed, "a clock that was set back"


def test_an_update_that_failed_has_not_begun() -> None:
    state = State(attempt=attempt(NEW, "failed", NOW, "no link"))
    assert refusals(decide(site=LAST, state=state)[1]) == ["wave"]


# --- revoked


def test_a_revoked_release_is_never_installed() -> None:
    wanted, _ = decide(revoking(POINTER, NEW))
    assert wanted.release is OLD
    assert wanted.settled
    assert "revoked" in wanted.why


def test_with_all_revoked_a_machine_stays_as_it_is_and_says_so() -> None:
    wanted, verdict = decide(revoking(POINTER, NEW, OLD))
    assert wanted.release is None
    assert wanted.leaving == "it leaks"
    assert not wanted.settled
    assert refusals(verdict) == ["available"]
    assert "is revoked (it leaks), and channel stable holds no other release" in wanted.why


def test_a_machine_leaves_what_is_revoked_for_the_channels_release_in_its_wave() -> None:
    wanted, verdict = decide(revoking(POINTER, OLD))
    assert (wanted.release, wanted.leaving) == (NEW, "it leaks")
    assert verdict.allowed


@pytest.mark.parametrize("state", ["rolling", "held", "halted"])
@pytest.mark.parametrize("site", [FIRST, LAST], ids=["first wave", "last wave"])
def test_it_leaves_past_wave_hold_and_halt_if_there_is_nothing_else(state: str, site: Site) -> None:
    wanted, verdict = decide(steered(revoking(POINTER, OLD), state), site)
    assert wanted.release is NEW
    assert verdict.allowed


def test_it_leaves_for_what_had_spread_if_the_rollout_has_not_come_here() -> None:
    wanted, verdict = decide(revoking(POINTER, ANCIENT), LAST, ANCIENT)
    assert wanted.release is OLD
    assert verdict.allowed


def test_it_leaves_a_revoked_new_release_for_the_one_before() -> None:
    wanted, verdict = decide(revoking(POINTER, NEW), LAST, NEW)
    assert (wanted.release, wanted.kind) == (OLD, "previous")
    assert verdict.allowed


def test_it_does_not_leave_for_what_failed_here_if_there_is_something_else() -> None:
    state = State(bad=(known_bad(NEW, NOW),))
    wanted, verdict = decide(revoking(POINTER, ANCIENT), FIRST, ANCIENT, state)
    assert wanted.release is OLD
    assert verdict.allowed


def test_a_freeze_holds_even_what_is_revoked() -> None:
    frozen = revoking(POINTER, OLD).model_copy(update={"frozen": "inspection"})
    assert refusals(decide(frozen)[1]) == ["not frozen"]


def test_a_revocation_of_the_same_root_counts_under_every_version() -> None:
    renamed = OLD.model_copy(update={"version": "20200101.000000.gaaaaaaaaaaaa"})
    assert decide(revoking(POINTER, OLD), here=renamed)[0].leaving == "it leaks"


# --- failed here, on trial, another machine, attestations


def test_what_failed_here_is_not_tried_again_and_says_why() -> None:
    state = State(bad=(known_bad(NEW, NOW, "unit web.service failed"),))
    _, verdict = decide(state=state)
    assert refusals(verdict) == ["not failed here"]
    assert "unit web.service failed" in verdict.refusals[0].reason


def test_what_failed_here_is_tried_again_if_a_person_allows_it() -> None:
    state = State(bad=(known_bad(NEW, NOW),), allowed=(NEW.version,))
    assert decide(state=state)[1].allowed


def test_nothing_is_begun_while_what_runs_is_on_trial() -> None:
    _, verdict = decide(here=running(OLD, tries_left=2))
    assert refusals(verdict) == ["confirmed"]


def test_another_image_is_refused_unless_the_site_names_it() -> None:
    web, gate = make_published("edge-web", 1), make_published("edge-gate", 1)
    site = site_in_wave(1)
    _, verdict = decide(POINTER, site, gate)
    assert refusals(verdict) == ["machine class"]
    assert "image edge-web" in verdict.refusals[0].reason
    named = site.model_copy(update={"image": "edge-web"})
    assert decide(POINTER, named, gate)[1].allowed
    assert web.image == POINTER.image


def test_what_is_not_attested_is_refused() -> None:
    gate = Gate("attested", False, "nobody attested a test of this root")
    _, verdict = decide(attested=gate)
    assert verdict.refusals == (gate,)
    assert decide(attested=Gate("attested", True, "tested on qemu"))[1].allowed


# --- persons


def test_update_now_does_not_wait_for_its_wave_and_for_nothing_else() -> None:
    assert decide(site=LAST, override=True)[1].allowed
    bad = State(bad=(known_bad(NEW, NOW),))
    for pointer, state in ((STANDING[0], None), (STANDING[1], None), (POINTER, bad)):
        assert not decide(pointer, LAST, OLD, state, override=True)[1].allowed
    assert decide(revoking(POINTER, NEW), LAST, OLD, override=True)[0].settled


def pinned(release: PublishedRelease, **more: object) -> State:
    return State.model_validate({"pin": Pin(version=release.version, when=NOW), **more})


def test_a_pin_to_what_runs_keeps_it_whatever_the_channel_says() -> None:
    wanted, _ = decide(state=pinned(OLD))
    assert wanted.settled
    assert wanted.kind == "pin"
    assert "a person pinned this machine" in wanted.why
    assert decide(here=OTHER, state=pinned(OTHER))[0].settled, "unknown to the channel"


def test_a_pin_to_the_channels_release_does_not_wait_for_its_wave() -> None:
    wanted, verdict = decide(site=LAST, state=pinned(NEW))
    assert (wanted.release, wanted.kind) == (NEW, "pin")
    assert verdict.allowed
    assert not decide(steered(POINTER, "halted"), LAST, OLD, pinned(NEW))[1].allowed


def test_a_pin_brings_a_machine_back_to_what_is_in_its_other_slot() -> None:
    state = pinned(OTHER, attempt=attempt(OTHER, "confirmed", NOW))
    wanted, verdict = decide(site=LAST, here=NEW, state=state)
    assert (wanted.release, wanted.kind) == (OTHER, "pin")
    assert verdict.allowed
    assert decide(here=NEW, state=pinned(OLD))[0].release is OLD


def test_a_pin_to_what_cannot_be_had_keeps_the_machine_where_it_is() -> None:
    wanted, verdict = decide(state=pinned(OTHER))
    assert wanted.release is None
    assert "does not hold any more" in wanted.why
    assert refusals(verdict) == ["available"]


def test_no_pin_keeps_a_machine_on_what_is_revoked() -> None:
    wanted, verdict = decide(revoking(POINTER, OLD), state=pinned(OLD))
    assert wanted.release is NEW
    assert verdict.allowed
    assert "does not count" in wanted.notes[0]
    unknown = decide(revoking(POINTER, OLD), state=pinned(OTHER))[0]
    assert unknown.release is NEW
    assert "does not count" in unknown.notes[0]


# --- laws

ANY_STATE = st.builds(
    State,
    attempt=st.none()
    | st.builds(
        attempt,
        st.sampled_from([ANCIENT, OLD, NEW, OTHER]),
        st.sampled_from(
            ["chosen", "written", "staged", "activated", "booted", "confirmed", "failed"]
        ),
        st.just(NOW),
    ),
    bad=st.lists(st.sampled_from([OLD, NEW]).map(lambda r: known_bad(r, NOW)), max_size=2).map(
        tuple
    ),
    pin=st.none()
    | st.sampled_from([ANCIENT, OLD, NEW]).map(lambda r: Pin(version=r.version, when=NOW)),
)
ANY_POINTER = st.builds(
    lambda pointer, state, revoked, frozen: steered(revoking(pointer, *revoked), state).model_copy(
        update={"frozen": frozen}
    ),
    st.sampled_from([POINTER, pointing(NEW, None), pointing(OLD, NEW)]),
    st.sampled_from(["rolling", "held", "halted"]),
    st.lists(st.sampled_from([ANCIENT, OLD, NEW]), max_size=3, unique_by=lambda r: r.version),
    st.sampled_from(["", "frozen"]),
)
SITES = st.sampled_from([FIRST, LAST])
HERE = st.sampled_from([ANCIENT, OLD, NEW, OTHER])
TIMES = st.integers(-100, 100).map(lambda hours: NOW + hours * HOUR)


@given(ANY_POINTER, SITES, HERE, ANY_STATE, TIMES, st.booleans())
def test_nothing_revoked_or_known_to_fail_is_ever_installed(
    pointer: Pointer,
    site: Site,
    here: PublishedRelease,
    state: State,
    now: datetime,
    override: bool,
) -> None:
    wanted, verdict = decide(pointer, site, here, state, now=now, override=override)
    assert wanted.why
    if wanted.settled or not verdict.allowed:
        return
    release = wanted.release
    assert release is not None
    assert pointer.revocation(release.version, release.root_hash) is None
    assert state.known_bad(release.version, release.root_hash, release.boot_digest) is None
    assert not policy.runs(release, running(here))


@given(ANY_POINTER, SITES, HERE, TIMES)
def test_a_machine_that_does_as_it_is_told_comes_to_rest(
    pointer: Pointer, site: Site, here: PublishedRelease, now: datetime
) -> None:
    """At one moment nothing sends it to and fro."""
    state, seen = State(), [here]
    while True:
        wanted, verdict = decide(pointer, site, seen[-1], state, now=now)
        if wanted.settled or not verdict.allowed:
            break
        assert wanted.release is not None
        assert wanted.release not in seen
        seen.append(wanted.release)
        state = State(attempt=attempt(wanted.release, "confirmed", now))
    assert len(seen) <= 3


def test_a_device_needs_little_to_decide() -> None:
    """The agent imports these: no store, no trust, no network."""
    code = (
        "import sys, pipeline.policy.installation, pipeline.policy.window, "
        "pipeline.policy.backoff, pipeline.agent.status; "
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
