"""What becomes of a machine that follows its channel, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.agent.settle import MISSES
from pipeline.errors import (
    DigestError,
    HostError,
    Interrupted,
    NetworkError,
    TrustError,
    UsageError,
)
from pipeline.models.device import Pin, Step
from pipeline.models.site import Site, parse_window
from pipeline.policy.verdict import Gate
from tests.fakes.pointers import make_published
from tests.fakes.site_machine import IMAGE, NOW, SIZE, PowerCut, SiteMachine, channel

V1, V2, V3 = (make_published(IMAGE, number).version for number in (1, 2, 3))
PREPARED: tuple[Step, ...] = ("cleared", "written", "verified", "named", "staged")
ALL: tuple[Step, ...] = (*PREPARED, "activated")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here: that what is saved is synced, test_agent_state holds."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture
def machine(tmp_path: Path) -> SiteMachine:
    """A machine that runs v1 and has heard of nothing else."""
    made = SiteMachine(tmp_path)
    made.turn()
    return made


def offer(machine: SiteMachine, number: int, **more: object) -> None:
    machine.stores.pointer_now = channel(number, **more)  # type: ignore[arg-type]
    machine.now += timedelta(hours=1)


def windowed(machine: SiteMachine, window: str) -> None:
    machine.site = machine.site.model_copy(update={"window": (parse_window(window),)})


def said(machine: SiteMachine) -> str:
    """The status, as others find it."""
    return (machine.folder / "run/recast/status.json").read_text()


# The way that all is well.


def test_a_promotion_reaches_the_machine_with_one_reboot(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn()
    assert (machine.version, machine.reboots) == (V2, 1)
    machine.turn()
    assert machine.confirmed
    assert machine.attempt.step == "confirmed"
    assert machine.reports[-1].version == V2
    assert machine.reports[-1].confirmed
    assert {*machine.attempt.seconds} == {*ALL, "confirmed"}
    steps = machine.history()
    assert [step for step in steps if step in ALL] == [*ALL]
    assert steps[-1] == "confirmed"


def test_a_machine_that_has_what_its_channel_holds_rests(machine: SiteMachine) -> None:
    for _ in range(3):
        machine.now += timedelta(hours=1)
        outcome = machine.turn()
        assert outcome
        assert outcome.status.settled
    assert machine.reboots == 0
    assert machine.applied == []
    assert machine.reports[-1].outcome == "ok"


def test_every_step_is_reported(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn()
    assert [step for step in ("chosen", *ALL) if step in {each.step for each in machine.reports}]
    told = [each.step for each in machine.reports if each.target == V2]
    assert [step for step in dict.fromkeys(told) if step in ("chosen", *ALL)] == ["chosen", *ALL]


def test_a_rollback_of_the_channel_takes_the_release_that_is_still_there(
    machine: SiteMachine,
) -> None:
    offer(machine, 2)
    machine.settle_down()
    machine.other = make_published(IMAGE, 1)
    before = machine.downloaded
    offer(machine, 1)
    machine.settle_down()
    assert machine.version == V1
    assert machine.confirmed
    assert machine.downloaded == before
    assert machine.attempt.rollback


def test_two_updates_in_a_row_use_ever_larger_entries(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.settle_down()
    offer(machine, 3)
    machine.settle_down()
    assert machine.version == V3
    assert machine.state.sequence == 2


# Faults on the way, at each step.


@pytest.mark.parametrize("fault", ["cut", "cut before its note", "cut after its note"])
@pytest.mark.parametrize("step", ALL)
def test_after_a_power_cut_at_any_step_it_ends_by_itself(
    machine: SiteMachine, step: Step, fault: str
) -> None:
    machine.faults[step] = fault
    offer(machine, 2)
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V2, True)
    assert machine.attempt.step == "confirmed"
    assert not machine.state.bad
    done = machine.applied
    if fault != "cut before its note":
        assert done == [*dict.fromkeys(done)], "a step that was noted was done again"


@pytest.mark.parametrize("fault", ["network", "disk full", "broken disk"])
@pytest.mark.parametrize("step", ALL)
def test_what_fails_on_the_way_is_told_and_tried_again(
    machine: SiteMachine, step: Step, fault: str
) -> None:
    machine.faults[step] = fault
    offer(machine, 2)
    outcome = machine.turn()
    assert outcome
    assert outcome.error is not None
    assert machine.version == V1
    assert machine.state.trouble
    assert machine.reports[-1].outcome == "waiting"
    assert machine.reports[-1].reason
    assert machine.state.failures == 1
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V2, True)
    assert not machine.state.trouble
    assert machine.state.failures == 0


def test_a_stop_loses_nothing_and_is_no_failure(
    machine: SiteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_trip", _stop_at_named(machine))
    offer(machine, 2)
    with pytest.raises(Interrupted):
        machine.agent().update()
    assert machine.attempt.step == "verified"
    assert machine.state.failures == 0
    monkeypatch.undo()
    machine.settle_down()
    assert machine.version == V2


def _stop_at_named(machine: SiteMachine) -> object:
    def trip(_fault: str) -> None:
        if machine.applied[-1:] == ["verified"]:
            raise Interrupted("stopped by SIGTERM")

    return trip


def test_failures_make_the_store_be_asked_ever_less_often(machine: SiteMachine) -> None:
    machine.stores.error = NetworkError("https://store.example does not answer")
    pauses = []
    for _ in range(8):
        assert machine.state.next is not None
        machine.now = machine.state.next
        machine.turn()
        assert machine.state.next is not None
        pauses.append((machine.state.next - machine.now).total_seconds())
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[3] <= pauses[-1] <= 8 * 3600
    assert machine.wakes[-1] == pytest.approx(pauses[-1], abs=2)


def test_between_two_looks_the_store_is_left_alone(machine: SiteMachine) -> None:
    asked = machine.stores.asked
    machine.now += timedelta(seconds=30)
    machine.turn()
    assert machine.stores.asked == asked
    machine.turn(asked=True)
    assert machine.stores.asked == asked + 1


def test_corrupt_bytes_never_boot_and_are_no_reason_to_give_the_release_up(
    machine: SiteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise DigestError("the root of the release is not what was signed")

    with monkeypatch.context() as patch:
        patch.setattr(machine, "apply", refuse)
        offer(machine, 2)
        machine.turn()
    assert machine.version == V1
    assert not machine.state.bad
    assert "not what was signed" in said(machine)
    machine.settle_down()
    assert machine.version == V2


# Releases that are no good here.


@pytest.mark.parametrize(
    ("ill", "reason"),
    [
        ("panics", "3 times and never got as far as its services: a kernel panic, a hang"),
        ("hangs", "never got as far as its services"),
    ],
)
def test_a_release_that_dies_silently_is_left_remembered_and_reported(
    machine: SiteMachine, ill: str, reason: str
) -> None:
    machine.ill[V2] = ill
    offer(machine, 2)
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V1, True)
    assert machine.reboots == 1
    assert reason in machine.attempt.reason
    assert [bad.version for bad in machine.state.bad] == [V2]
    assert machine.reports[-1].outcome == "failed"
    assert reason in machine.reports[-1].reason
    assert "failed here" in said(machine)


def test_a_failed_health_check_is_judged_at_once_and_named(machine: SiteMachine) -> None:
    machine.ill[V2] = "fails"
    offer(machine, 2)
    machine.turn()
    assert machine.version == V2
    machine.judged()
    assert machine.version == V1
    machine.turn()
    assert "health check `page` failed: it does not answer" in machine.attempt.reason
    assert machine.state.bad[0].reason == machine.attempt.reason
    assert machine.reports[-1].outcome == "failed"
    machine.settle_down()
    assert machine.version == V1
    assert machine.reboots == 2


def test_a_release_that_never_becomes_healthy_is_given_up_at_its_deadline(
    machine: SiteMachine,
) -> None:
    machine.ill[V2] = "stalls"
    offer(machine, 2)
    machine.turn()
    machine.judged()
    assert machine.version == V2, "its time is not over"
    machine.turn()
    assert 0 < machine.wakes[-1] <= 31
    machine.uptime = machine.site.deadline + 1
    machine.judged()
    machine.turn()
    assert machine.version == V1
    assert "was not healthy 600 s after power-on" in machine.attempt.reason


def test_the_timer_judges_too_should_nothing_else_do_it(machine: SiteMachine) -> None:
    machine.ill[V2] = "stalls"
    offer(machine, 2)
    machine.turn()
    machine.uptime = machine.site.deadline + 1
    machine.turn()
    assert machine.version == V1


def test_power_cycles_on_trial_end_on_the_old_release_with_the_evidence(
    machine: SiteMachine,
) -> None:
    machine.ill[V2] = "stalls"
    offer(machine, 2)
    machine.turn()
    while machine.version == V2:
        machine.boot()
    machine.turn()
    assert machine.attempt.step == "failed"
    assert machine.attempt.reason == "it was started 3 times and never became healthy"


def test_a_release_that_was_good_here_long_ago_is_not_taken_for_one_that_got_far(
    machine: SiteMachine,
) -> None:
    offer(machine, 2)
    machine.settle_down()
    machine.ill[V1] = "panics"  # it has marks of its own, from before
    machine.other = None
    offer(machine, 1)
    machine.settle_down()
    assert machine.version == V2
    assert "never got as far as its services" in machine.attempt.reason


def test_what_failed_is_tried_again_when_republished_or_allowed(machine: SiteMachine) -> None:
    machine.ill[V2] = "panics"
    offer(machine, 2)
    machine.settle_down()
    offer(machine, 3)
    machine.settle_down()
    assert machine.version == V3
    machine.ill.clear()
    offer(machine, 2)
    machine.settle_down()
    assert machine.version == V3
    memory = machine.memory()
    memory.save(memory.load().model_copy(update={"allowed": (V2,)}))
    machine.settle_down()
    assert machine.version == V2
    assert not machine.state.bad


def test_a_release_that_was_allowed_and_fails_again_is_not_tried_a_third_time(
    machine: SiteMachine,
) -> None:
    machine.ill[V2] = "panics"
    offer(machine, 2)
    machine.settle_down()
    memory = machine.memory()
    memory.save(memory.load().model_copy(update={"allowed": (V2,)}))
    machine.settle_down()
    assert machine.reboots == 2
    assert machine.state.allowed == ()


def test_a_lost_link_is_no_reason_to_give_a_release_up(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn()
    machine.stores.error = NetworkError("https://store.example does not answer")
    machine.judged()
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V2, True)


def test_a_machine_with_nothing_to_go_back_to_is_not_rebooted_for_ever(
    tmp_path: Path,
) -> None:
    machine = SiteMachine(tmp_path, ill={V1: "fails"})
    machine.ways[0].left = 2
    outcome = machine.judged()
    assert machine.reboots == 0
    assert "no other release to go to" in outcome.status.problems[0]


def test_an_unhealthy_boot_that_is_not_on_trial_is_only_told(machine: SiteMachine) -> None:
    machine.ill[V1] = "fails"
    outcome = machine.judged()
    assert machine.reboots == 0
    assert "not healthy" in outcome.status.problems[0]


# Somebody or something else boots another release.


def test_somebody_who_boots_the_old_one_by_hand_spoils_nothing(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.by_hand = f"{make_published(IMAGE, 1).name}.efi"
    machine.turn()
    assert machine.version == V1
    machine.by_hand = ""
    machine.settle_down()
    assert machine.version == V2
    assert not machine.state.bad


def test_a_boot_loader_that_passes_a_release_by_is_not_tried_for_ever(
    machine: SiteMachine,
) -> None:
    machine.ignores.add("recast-1.conf")
    offer(machine, 2)
    machine.settle_down()
    assert machine.version == V1
    assert machine.reboots == MISSES
    assert "boot loader did not take it" in machine.attempt.reason


def test_what_an_earlier_try_left_on_the_esp_is_not_taken_for_this_one(
    machine: SiteMachine,
) -> None:
    machine.ill[V2] = "panics"
    offer(machine, 2)
    machine.settle_down()
    machine.ill.clear()
    memory = machine.memory()
    memory.save(memory.load().model_copy(update={"allowed": (V2,)}))
    machine.faults["activated"] = "cut"
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V2, True)
    assert "recast-1.conf" in [way.id for way in machine.ways], "else this shows nothing"
    assert not machine.state.bad
    offer(machine, 3)
    machine.settle_down()
    assert not machine.state.bad


def test_a_release_found_sick_that_could_not_be_given_up_is_so_later(
    machine: SiteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_entry: str) -> None:
        raise HostError("the ESP cannot be written")

    machine.ill[V2] = "fails"
    offer(machine, 2)
    machine.turn()
    machine.by_hand = machine.ways[0].id
    with monkeypatch.context() as patch:
        patch.setattr(machine, "give_up", broken)
        machine.judged()
    assert machine.version == V1
    machine.turn()
    machine.by_hand = ""
    machine.boot()
    assert machine.version == V1


def test_an_entry_that_vanished_is_made_again(machine: SiteMachine) -> None:
    windowed(machine, "02:00-03:00")
    offer(machine, 2)
    machine.turn(override=True)
    machine.ways = machine.ways[:1]
    machine.boot()
    assert machine.version == V1
    machine.turn(override=True)
    machine.settle_down()
    assert machine.version == V2


def test_what_was_blessed_before_it_could_be_noted_counts_as_good(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn()
    assert machine.version == V2
    machine.by_hand = f"{make_published(IMAGE, 1).name}.efi"
    machine.boot()
    machine.turn()
    assert machine.attempt.step != "failed"
    assert not machine.state.bad


def test_without_the_esp_nothing_is_concluded(machine: SiteMachine) -> None:
    machine.ill[V2] = "panics"
    offer(machine, 2)
    machine.turn()
    machine.unreadable = True
    outcome = machine.turn()
    assert outcome
    assert "the ESP cannot be read" in outcome.status.problems
    assert not machine.state.bad
    machine.unreadable = False
    machine.settle_down()
    assert machine.state.bad


# When it may.


def test_all_is_prepared_before_the_window_and_it_moves_within(machine: SiteMachine) -> None:
    windowed(machine, "02:00-04:00 UTC")
    offer(machine, 2)
    machine.turn()
    assert machine.attempt.step == "staged"
    assert machine.version == V1
    assert "window" in machine.state.waiting[0]
    machine.boot()
    assert machine.version == V1, "a power cut outside the window is no way into it"
    machine.now = datetime.fromisoformat("2026-06-02T02:30:00Z")
    machine.turn()
    assert machine.version == V2


def test_it_wakes_when_the_window_opens(machine: SiteMachine) -> None:
    windowed(machine, "13:10-14:00 UTC")
    offer(machine, 2)  # it is 13:00 now
    machine.turn()
    assert machine.wakes[-1] == pytest.approx(600, abs=1)


def test_a_person_need_not_wait_for_the_window(machine: SiteMachine) -> None:
    windowed(machine, "02:00-04:00 UTC")
    offer(machine, 2)
    machine.turn(asked=True, override=True)
    assert machine.version == V2


def test_what_asks_for_no_reboot_is_waited_for_and_named(machine: SiteMachine) -> None:
    machine.stands_in_the_way = ("a backup runs",)
    offer(machine, 2)
    machine.turn()
    assert machine.version == V1
    assert machine.attempt.step == "staged"
    assert "a backup runs" in machine.state.waiting[0]
    assert machine.wakes[-1] <= 301
    machine.stands_in_the_way = ()
    machine.turn()
    assert machine.version == V2


def test_download_only_leaves_the_boot_loader_alone(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn(asked=True, until="staged")
    assert machine.attempt.step == "staged"
    assert len(machine.ways) == 1
    machine.turn()
    assert machine.version == V2
    assert machine.downloaded == SIZE


# What the channel says meanwhile.


@pytest.mark.parametrize("stands", [{"state": "halted"}, {"frozen": "an incident"}])
def test_a_halt_half_way_stops_it_where_it_stands(
    machine: SiteMachine, stands: dict[str, str]
) -> None:
    machine.faults["verified"] = "network"
    offer(machine, 2)
    machine.turn()
    offer(machine, 2, **stands)
    machine.turn()
    assert (machine.version, machine.attempt.step) == (V1, "written")
    assert machine.state.waiting
    offer(machine, 2)
    machine.settle_down()
    assert machine.version == V2
    assert machine.downloaded == SIZE


@pytest.mark.parametrize("after", ["written", "staged"])
def test_a_release_that_is_revoked_half_way_is_dropped(machine: SiteMachine, after: Step) -> None:
    windowed(machine, "02:00-02:01 UTC")
    if after == "written":
        machine.faults["verified"] = "network"
    offer(machine, 2)
    machine.turn()
    offer(machine, 2, revoked=[2], previous=1)
    machine.turn()
    assert machine.attempt.step == "failed"
    assert "revoked" in machine.attempt.reason
    assert not machine.state.bad
    windowed(machine, "00:00-00:00")
    machine.settle_down()
    assert machine.version == V1


def test_what_is_activated_and_revoked_before_the_reboot_is_not_booted(
    machine: SiteMachine,
) -> None:
    offer(machine, 2)
    machine.agent().update()  # and the reboot never comes
    assert machine.attempt.step == "activated"
    machine.wants_reboot = False
    offer(machine, 2, revoked=[2], previous=1)
    machine.turn()
    machine.boot()
    assert machine.version == V1


def test_a_machine_leaves_a_revoked_release(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.settle_down()
    offer(machine, 3, previous=1, revoked=[2], state="halted")
    machine.settle_down()
    assert machine.version in (V1, V3)


def test_a_newer_release_takes_the_place_of_one_that_is_only_prepared(
    machine: SiteMachine,
) -> None:
    windowed(machine, "02:00-03:00 UTC")
    offer(machine, 2)
    machine.turn()
    offer(machine, 3)
    machine.turn()
    assert machine.attempt.release.version == V3
    windowed(machine, "00:00-00:00")
    machine.now += timedelta(hours=1)
    machine.settle_down()
    assert machine.version == V3


def test_a_pin_holds_and_its_end_lets_go(machine: SiteMachine) -> None:
    memory = machine.memory()
    memory.save(memory.load().model_copy(update={"pin": Pin(version=V1, when=NOW)}))
    offer(machine, 2)
    machine.settle_down()
    assert machine.version == V1
    memory.save(memory.load().model_copy(update={"pin": None}))
    machine.settle_down()
    assert machine.version == V2


@pytest.mark.parametrize(
    "gate", [Gate("slot size", False, "it needs 2 GiB"), Gate("ESP space", False, "no room")]
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    machine: SiteMachine, gate: Gate
) -> None:
    machine.gates = (gate,)
    offer(machine, 2)
    machine.turn()
    assert machine.applied == []
    assert gate.reason in machine.state.waiting[0]
    assert gate.reason in machine.reports[-1].reason


def test_nothing_unproven_is_installed(machine: SiteMachine) -> None:
    machine.stores.proof = Gate("attested", False, "no tests have passed on the root")
    offer(machine, 2)
    machine.turn()
    assert machine.applied == []
    assert "no tests have passed" in machine.state.waiting[0]


# Links, clocks and memories that fail.


def test_offline_it_goes_by_what_it_remembers(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn(asked=True, until="staged")
    machine.stores.error = NetworkError("https://store.example does not answer")
    machine.settle_down()
    assert machine.version == V2


@pytest.mark.parametrize(
    "error",
    [
        NetworkError("https://store.example does not answer"),
        TrustError("channel stable was good until 2026-01-01T00:00:00Z"),
        HostError("the folder of trust cannot be used"),
    ],
)
def test_without_word_that_counts_it_stays_and_says_why(
    machine: SiteMachine, error: NetworkError | TrustError | HostError
) -> None:
    offer(machine, 2)
    machine.stores.error = error
    machine.stores.remembers = False
    outcome = machine.turn()
    assert outcome
    assert machine.version == V1
    assert error.message in machine.state.trouble
    assert error.message in said(machine)
    machine.stores.error = None
    machine.settle_down()
    assert machine.version == V2


def test_a_channel_that_does_not_exist_is_told(machine: SiteMachine) -> None:
    machine.site = Site.model_validate({**machine.site.model_dump(), "channel": "stabel"})
    machine.turn(asked=True)
    assert "stabel" in machine.state.trouble


def test_a_machine_that_was_told_nothing_says_so(tmp_path: Path) -> None:
    machine = SiteMachine(tmp_path)
    machine.agent(upstream=None, unconfigured="it was told no store").update()
    assert "no store" in said(machine)


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_was_far_off_stops_nothing_for_good(machine: SiteMachine, years: int) -> None:
    right = machine.now
    machine.now = right + timedelta(days=365 * years)
    machine.turn(asked=True)
    machine.now = right
    machine.turn()
    offer(machine, 2)
    machine.turn()
    assert machine.version == V2


def test_a_damaged_memory_is_told_and_begun_anew(machine: SiteMachine) -> None:
    (machine.folder / "data/recast/agent/state.json").write_text('{"attempt": 7')
    outcome = machine.turn()
    assert outcome
    assert "was damaged" in outcome.status.problems[0]
    offer(machine, 2)
    machine.settle_down()
    assert machine.version == V2


def test_without_a_data_partition_it_is_updated_all_the_same(machine: SiteMachine) -> None:
    machine.mount = machine.folder / "nothing"
    offer(machine, 2)
    outcome = machine.turn()
    assert outcome
    assert "data partition" in outcome.status.problems[0]
    assert machine.version == V2


def test_what_failed_is_known_from_the_boot_loader_if_the_memory_is_lost(
    machine: SiteMachine,
) -> None:
    machine.ill[V2] = "panics"
    offer(machine, 2)
    machine.turn()
    (machine.folder / "data/recast/agent/state.json").unlink()
    machine.settle_down()
    assert machine.version == V1
    assert machine.reboots == 1
    assert machine.state.bad[0].version == V2


def test_entries_of_a_lost_memory_are_not_taken_again(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.settle_down()
    (machine.folder / "data/recast/agent/state.json").unlink()
    offer(machine, 3)
    machine.settle_down()
    assert machine.version == V3
    assert "recast-2.conf" in [way.id for way in machine.ways]


def test_a_power_cut_right_before_the_blessing_is_noted_changes_nothing(
    machine: SiteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(machine, 2)
    machine.turn()

    def cut(_entry: str) -> None:
        raise PowerCut

    assert machine.way
    machine.way.left = 2  # systemd has not blessed it; the agent is about to
    with monkeypatch.context() as patch:
        patch.setattr(machine, "bless", cut)
        machine.turn()
    machine.settle_down()
    assert (machine.version, machine.confirmed) == (V2, True)


# A person's word.


def test_a_person_can_call_good_what_is_on_trial(machine: SiteMachine) -> None:
    machine.ill[V2] = "stalls"
    offer(machine, 2)
    machine.turn()
    machine.agent().confirm(by="ada")
    assert machine.confirmed
    assert machine.attempt.step == "confirmed"
    with pytest.raises(UsageError, match="nothing to confirm"):
        machine.agent().confirm(by="ada")


def test_a_check_writes_nothing_to_the_disk_and_says_what_would_be_done(
    machine: SiteMachine,
) -> None:
    windowed(machine, "02:00-03:00 UTC")
    offer(machine, 2)
    outcome = machine.agent().check()
    assert outcome.status.wanted == V2
    assert [each.gate for each in outcome.status.waiting] == ["window"]
    assert machine.applied == []
    assert machine.state.attempt is None


def test_the_status_is_there_for_other_programs(machine: SiteMachine) -> None:
    offer(machine, 2)
    machine.turn()
    found = json.loads(said(machine))
    assert found["running"]["version"] in (V1, V2)
    assert found["attempt"]["release"]["version"] == V2
