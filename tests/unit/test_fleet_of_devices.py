"""Two hundred devices follow a channel through time, each by itself: what an operator then sees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.channels.pointers import moved, new_rollout, revoked
from pipeline.models.channel import ALL_AT_ONCE, Wave
from pipeline.models.pointer import Pointer, PublishedRelease, Revocation, Rollout
from pipeline.models.site import Site
from pipeline.policy import rollout as policy
from tests.fakes.devices import POLL, Device, share_on
from tests.fakes.pointers import make_published
from tests.fakes.site_machine import FakeUpstream, SiteMachine

T0 = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEP = timedelta(minutes=10)
ASKED = timedelta(seconds=2 * POLL)  # by then every device has asked
WAVES = (Wave(share=0.1, soak=4 * 3600.0), Wave(share=0.5, soak=12 * 3600.0), Wave(share=1.0))
COUNT = 200
OLD, GOOD, NEW, NEWER = (make_published("edge-web", number) for number in (1, 2, 3, 4))


class Fleet:
    """Devices and the channel that they follow, at one moment."""

    def __init__(self, release: PublishedRelease = GOOD, fails: frozenset[str] = frozenset()):
        self.now = T0 - 48 * HOUR
        self.devices = [Device(f"edge-{n:03}", release, fails) for n in range(COUNT)]
        for number, device in enumerate(self.devices):  # not all were powered on in one moment
            device.asks_at(T0 + number / COUNT * timedelta(seconds=POLL))
        self.pointer = moved(
            None, "stable", release, new_rollout("stable", release, ALL_AT_ONCE, self.now), keep=5
        )
        self.now = T0

    def hold(self, release: PublishedRelease, waves: tuple[Wave, ...] = WAVES) -> None:
        rollout = new_rollout("stable", release, waves, self.now)
        self.pointer = moved(self.pointer, "stable", release, rollout, keep=5)

    def steer(self, step: str) -> None:
        assert self.pointer.rollout is not None
        act = {"hold": policy.hold, "halt": policy.halt, "resume": policy.resume}[step]
        self._change(rollout=act(self.pointer.rollout, self.now))

    def freeze(self, why: str) -> None:
        self._change(frozen=why)

    def revoke(self, release: PublishedRelease) -> None:
        revocation = Revocation(
            version=release.version, root_hash=release.root_hash, reason="it leaks", when=self.now
        )
        changed = revoked(self.pointer, "stable", "edge-web", revocation)
        assert changed is not None
        self.pointer = changed

    def run_for(self, span: timedelta) -> None:
        end = self.now + span
        while self.now < end:
            for device in self.devices:
                device.look(self.pointer, self.now)
            self.now += STEP

    def on(self, release: PublishedRelease) -> float:
        return share_on(self.devices, release)

    def first_wave(self) -> list[Device]:
        rollout = self.pointer.rollout
        assert rollout is not None
        return [d for d in self.devices if policy.position(rollout.id, d.name) < WAVES[0].share]

    def _change(self, **changes: object) -> None:
        self.pointer = Pointer.model_validate(self.pointer.model_copy(update=changes).model_dump())


def test_a_release_spreads_wave_by_wave_and_reaches_all() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(ASKED)
    first = {device.name for device in fleet.first_wave()}
    assert {d.name for d in fleet.devices if d.runs is NEW} == first
    assert 0.04 < fleet.on(NEW) < 0.17, "a tenth of 200, and what chance adds"
    fleet.run_for(4 * HOUR)
    assert 0.40 < fleet.on(NEW) < 0.60
    assert first <= {d.name for d in fleet.devices if d.runs is NEW}
    fleet.run_for(12 * HOUR)
    assert fleet.on(NEW) == 1.0


def test_every_device_moves_once_and_none_before_its_wave() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    rollout = fleet.pointer.rollout
    assert rollout is not None
    fleet.run_for(20 * HOUR)
    late = []
    for device in fleet.devices:
        ((when, _),) = device.moves
        place = policy.position(rollout.id, device.name)
        own = next(i for i, wave in enumerate(rollout.waves) if place < wave.share)
        opens = policy.opening(rollout, own)
        assert opens is not None
        assert when >= opens
        late.append(when - opens)
    assert max(late) <= ASKED
    assert len(set(late)) > 1, "not all in one moment"


@pytest.mark.parametrize("stop", ["hold", "halt"])
def test_what_is_held_or_halted_stops_those_that_have_not_moved(stop: str) -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(6 * HOUR)
    moved_by_then = fleet.on(NEW)
    fleet.steer(stop)
    fleet.run_for(30 * HOUR)
    assert fleet.on(NEW) == moved_by_then
    assert fleet.on(GOOD) == 1 - moved_by_then, "those who had it keep it, and nobody goes back"
    fleet.steer("resume")
    fleet.run_for(13 * HOUR)
    assert fleet.on(NEW) == 1.0


def test_a_freeze_stops_everybody_and_a_thaw_lets_them_go_on() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.freeze("the plant is inspected")
    fleet.run_for(30 * HOUR)
    assert fleet.on(GOOD) == 1.0
    fleet.freeze("")
    fleet.run_for(ASKED)
    assert fleet.on(NEW) == 1.0


def test_a_revocation_moves_all_machines_off_at_once_to_what_was_before() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(6 * HOUR)
    fleet.revoke(NEW)
    fleet.run_for(ASKED)
    assert fleet.on(GOOD) == 1.0


def test_who_runs_what_is_revoked_does_not_wait_for_a_wave() -> None:
    fleet = Fleet()
    fleet.revoke(GOOD)
    fleet.hold(NEW)
    fleet.run_for(ASKED)
    assert fleet.on(NEW) == 1.0


def test_a_halted_rollout_still_takes_in_machines_whose_release_is_revoked() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(ASKED)
    fleet.steer("halt")
    fleet.revoke(GOOD)
    fleet.run_for(ASKED)
    assert fleet.on(NEW) == 1.0


def test_a_frozen_channel_keeps_even_what_is_revoked_where_it_is() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(6 * HOUR)
    before = fleet.on(NEW)
    fleet.freeze("nothing moves, whatever it is")
    fleet.revoke(NEW)
    fleet.run_for(10 * HOUR)
    assert fleet.on(NEW) == before


def test_a_rollback_goes_back_in_waves_too() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(20 * HOUR)
    fleet.hold(GOOD)
    fleet.run_for(ASKED)
    assert 0.04 < fleet.on(GOOD) < 0.17
    fleet.run_for(20 * HOUR)
    assert fleet.on(GOOD) == 1.0


def test_a_rollback_before_it_had_spread_moves_those_that_had_it_in_waves() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(6 * HOUR)
    had = fleet.on(NEW)
    fleet.hold(GOOD)
    fleet.run_for(ASKED)
    assert had * 0.7 < fleet.on(NEW) < had
    fleet.run_for(20 * HOUR)
    assert fleet.on(GOOD) == 1.0
    assert all(len(device.moves) in (0, 2) for device in fleet.devices)


def test_what_replaces_a_release_on_its_way_costs_nobody_a_detour() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(6 * HOUR)
    fleet.hold(NEWER)
    fleet.run_for(20 * HOUR)
    assert fleet.on(NEWER) == 1.0
    went = {tuple(release.version for _, release in device.moves) for device in fleet.devices}
    assert went == {(NEWER.version,), (NEW.version, NEWER.version)}


def test_a_machine_from_a_drawer_goes_to_what_had_spread_and_waits_there_for_its_wave() -> None:
    fleet = Fleet()
    fleet.hold(NEW)
    fleet.run_for(ASKED)
    last = [d for d in fleet.devices if d.runs is GOOD][-1]
    last.runs, last.state = OLD, last.state.model_copy(update={"next": None})
    fleet.run_for(ASKED)
    assert last.runs is GOOD
    fleet.run_for(20 * HOUR)
    assert last.runs is NEW


def test_what_cannot_be_healthy_is_tried_once_on_each_machine_and_then_left() -> None:
    fleet = Fleet(fails=frozenset({NEW.version}))
    fleet.hold(NEW, ALL_AT_ONCE)
    fleet.run_for(24 * HOUR)
    assert fleet.on(GOOD) == 1.0
    assert all(len(device.state.bad) == 1 for device in fleet.devices)
    fleet.hold(NEWER, ALL_AT_ONCE)
    fleet.run_for(ASKED)
    assert fleet.on(NEWER) == 1.0, "the next version is tried by itself"


# --- the same with whole agents: their memory, slots and boot loader


class Agents:
    """Machines with all of an agent on them, on one channel."""

    def __init__(self, folder: Path, ill: dict[str, str] | None = None) -> None:
        self.now = T0
        settled = new_rollout("stable", GOOD, ALL_AT_ONCE, T0 - 48 * HOUR)
        self.upstream = FakeUpstream(moved(None, "stable", GOOD, settled, keep=5))
        self.machines = [
            SiteMachine(
                folder / str(number),
                site=Site(
                    device=f"edge-{number:03}", store=("https://store.example",), channel="stable"
                ),
                current=GOOD,
                upstream=self.upstream,
                ill=dict(ill or {}),
            )
            for number in range(COUNT)
        ]

    def take_up(self, release: PublishedRelease) -> Rollout:
        rollout = new_rollout("stable", release, WAVES, self.now)
        self.upstream.pointer_now = moved(
            self.upstream.pointer_now, "stable", release, rollout, keep=5
        )
        return rollout

    def steer(self, **changes: object) -> None:
        pointer = self.upstream.pointer_now
        self.upstream.pointer_now = pointer.model_copy(update=changes)

    def all_turn(self, span: timedelta) -> None:
        """Time goes by, and every machine does all that it then wants to."""
        self.now += span
        for machine in self.machines:
            machine.now, boots = self.now, machine.boots
            machine.turn(asked=True)
            if machine.boots != boots:
                machine.turn(asked=True)

    def on(self, release: PublishedRelease) -> set[str]:
        return {m.site.device for m in self.machines if m.version == release.version}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # no power is cut here
    return tmp_path


def reached(rollout: Rollout, now: datetime) -> set[str]:
    share = policy.share(rollout, now)
    names = (f"edge-{number:03}" for number in range(COUNT))
    return {name for name in names if policy.position(rollout.id, name) < share}


def test_two_hundred_agents_move_in_the_waves_that_are_open_and_stop_when_halted(
    folder: Path,
) -> None:
    fleet = Agents(folder)
    rollout = fleet.take_up(NEW)
    fleet.all_turn(HOUR)
    assert fleet.on(NEW) == reached(rollout, fleet.now)
    assert 0 < len(fleet.on(NEW)) < COUNT / 5
    fleet.all_turn(4 * HOUR)
    assert fleet.on(NEW) == reached(rollout, fleet.now)
    fleet.steer(rollout=policy.halt(rollout, fleet.now))
    had = fleet.on(NEW)
    fleet.all_turn(40 * HOUR)
    assert fleet.on(NEW) == had
    assert fleet.on(GOOD) == {m.site.device for m in fleet.machines} - had
    leak = Revocation(
        version=NEW.version, root_hash=NEW.root_hash, reason="it leaks", when=fleet.now
    )
    fleet.steer(revoked=(leak,))
    fleet.all_turn(HOUR)
    assert fleet.on(GOOD) == {m.site.device for m in fleet.machines}
    assert all(machine.confirmed for machine in fleet.machines)


def test_agents_on_which_a_release_fails_go_back_report_it_and_leave_the_rest_alone(
    folder: Path,
) -> None:
    fleet = Agents(folder, ill={NEW.version: "panics"})
    rollout = fleet.take_up(NEW)
    fleet.all_turn(HOUR)
    assert fleet.on(GOOD) == {m.site.device for m in fleet.machines}
    tried = {m.site.device for m in fleet.machines if m.state.bad}
    assert tried == reached(rollout, fleet.now)
    told = {r.device for m in fleet.machines for r in m.reports if r.outcome == "failed"}
    assert told == tried, "an operator sees it in the first wave"
