"""Power that fails at any write of an update: the machine boots, and the update can be ended.

At every sync of an update, and at its end, whatever was not on the medium by then is kept or lost
in all combinations (where these are too many: each alone, all but each, and some by lot). Whatever
lies between two syncs is among them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pipeline.agent import entries, following
from pipeline.errors import HostError, NetworkError
from pipeline.models.device import Attempt
from tests.fakes.disk import FakeDisk, FakeEsp, Key, Op, Value, cut
from tests.fakes.slots import Built, FakeSource, Machine, build, make_attempt, new_machine

_ALL = 9
"""Up to so many pending writes every combination is tried."""
_BY_LOT = 20
_SEQUENCE = 7
_RESUMED = 4
"""Combinations of each cut after which the update is gone on with."""

V1, V2, V3, V4, TWIN = build(1), build(2), build(3), build(5), build(4, content=1)
EVERY = (V1, V2, V3, V4, TWIN)


@dataclass(frozen=True)
class Cut:
    """An instant at which power may fail.

    Attributes:
        durable: what is on the medium.
        pending: what may be.
        attempt: what the journal says.
    """

    durable: dict[Key, Value]
    pending: list[Op]
    attempt: Attempt


def run(
    machine: Machine, running: Built, attempt: Attempt, sequence: int, **options: bool
) -> tuple[Attempt, list[Cut]]:
    """Apply, and note every instant at which power may fail."""
    cuts: list[Cut] = []
    journal = [attempt]

    def instant() -> None:
        medium = machine.medium
        if medium.pending:
            cuts.append(Cut(dict(medium.durable), list(medium.pending), journal[-1]))

    def note(step: Attempt) -> None:
        instant()  # the journal may not have got this note
        journal.append(step)

    machine.medium.before_sync = instant
    slots = machine.slots(running, machine.entry(), **options)
    done = slots.apply(attempt, FakeSource(EVERY), note, sequence=sequence)
    instant()
    machine.medium.before_sync = None
    return done, cuts


def outcomes(pending: list[Op], lot: random.Random) -> Iterator[list[Op]]:
    """What of the pending writes may have reached the medium."""
    if len(pending) <= _ALL:
        for size in range(len(pending) + 1):
            yield from (list(each) for each in itertools.combinations(pending, size))
        return
    yield []
    yield pending
    step = max(1, len(pending) // 40)
    for index in range(0, len(pending), step):
        yield [pending[index]]
        yield pending[:index] + pending[index + 1 :]
        yield pending[:index]
    for _ in range(_BY_LOT):
        share = lot.random()
        yield [op for op in pending if lot.random() < share]


def after(machine: Machine, at: Cut, kept: list[Op]) -> Machine:
    return Machine(cut(at.durable, kept), machine.built, machine.clusters)


def hold(machine: Machine, cuts: list[Cut], running: Built, wanted: Built, *, deep: bool) -> int:
    """Check the law for every cut; return how many states there were."""
    lot = random.Random(1)
    states = 0
    for at in cuts:
        tried = list(outcomes(at.pending, lot))
        resumed = set(lot.sample(range(len(tried)), min(_RESUMED, len(tried))))
        for number, kept in enumerate(tried):
            states += 1
            found = after(machine, at, kept)
            boots = found.boots()
            assert boots in (running, wanted), f"it boots {boots.release.name}"
            if boots is wanted:
                assert at.attempt.step == "staged", "the new one boots before it may"
                found.check_slot(running)  # what it goes back to
                continue
            if number in resumed:
                again = go_on(found, at.attempt, running, wanted)
                if deep and lot.random() < 0.2:
                    states += hold(found, again, running, wanted, deep=False)
            elif lot.random() < 0.02:  # its data partition was lost, and with it the journal
                go_on(found, make_attempt(wanted), running, wanted)
    return states


def go_on(machine: Machine, attempt: Attempt, running: Built, wanted: Built) -> list[Cut]:
    """The next boot goes on with the update, and ends it."""
    done, cuts = run(machine, running, attempt, _SEQUENCE)
    assert done.step == "activated"
    assert machine.boots() is wanted
    assert machine.entry() == done.entry
    entry = next(e for e in machine.slots(running).entries() if e.id == done.entry)
    assert (entry.tries_left, entry.tries_done) == (3, 0)
    return cuts


def confirm(machine: Machine) -> None:
    machine.slots(V1).bless(machine.entry())


def first_update() -> tuple[Machine, Built, Built]:
    """From the factory's release to the next one, into the empty slot."""
    return new_machine(EVERY), V1, V2


def second_update() -> tuple[Machine, Built, Built]:
    """Over the factory's release."""
    machine = new_machine(EVERY)
    run(machine, V1, make_attempt(V2), 1)
    confirm(machine)
    return machine, V2, V3


def third_update() -> tuple[Machine, Built, Built]:
    """Over a release that an update brought."""
    machine, *_ = second_update()
    run(machine, V2, make_attempt(V3), 2)
    confirm(machine)
    return machine, V3, V4


def rollback() -> tuple[Machine, Built, Built]:
    """To the factory's release, which the other slot holds."""
    machine, *_ = second_update()
    return machine, V2, V1


def rollback_without_boot_file() -> tuple[Machine, Built, Built]:
    """The other slot holds it, and its UKI is gone."""
    machine, *_ = second_update()
    esp = machine.esp
    esp.remove(f"{entries.FACTORY}/{V1.release.name}.efi")
    esp.sync()
    return machine, V2, V1


def rollback_to_a_broken_slot() -> tuple[Machine, Built, Built]:
    """The other slot has the name, and a wrong block."""
    machine, *_ = second_update()
    part = machine.slots(V2).layout().other_root.on(machine.disk)
    part.write(3 * 4096, bytes(4096))
    part.sync()
    return machine, V2, V1


def same_root() -> tuple[Machine, Built, Built]:
    """Another kernel for the root that runs."""
    return new_machine(EVERY), V1, TWIN


def after_a_failure() -> tuple[Machine, Built, Built]:
    """The other slot holds what was tried and given up."""
    machine = new_machine(EVERY)
    done, _ = run(machine, V1, make_attempt(V2), 1)
    machine.slots(V1).give_up(done.entry)
    assert machine.boots() is V1
    return machine, V1, V3


def after_a_dead_link() -> tuple[Machine, Built, Built]:
    """The other slot and the ESP have what an update left that was given up on its way."""
    machine = new_machine(EVERY)
    with pytest.raises(NetworkError):
        machine.slots(V1).apply(
            make_attempt(V2), FakeSource(EVERY, fails_after=3), lambda _: None, sequence=1
        )
    target = machine.esp.target(entries.uki_path(V2.release.name), len(V2.uki))
    target.write(0, V2.uki[:700])
    machine.esp.sync()
    return machine, V1, V3


SCENES: tuple[Callable[[], tuple[Machine, Built, Built]], ...] = (
    first_update,
    second_update,
    third_update,
    rollback,
    rollback_without_boot_file,
    rollback_to_a_broken_slot,
    same_root,
    after_a_failure,
    after_a_dead_link,
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_machine_boots_whatever_a_cut_has_lost(
    scene: Callable[[], tuple[Machine, Built, Built]],
) -> None:
    machine, running, wanted = scene()
    done, cuts = run(machine, running, make_attempt(wanted), _SEQUENCE)
    assert done.step == "activated"
    assert machine.boots() is wanted
    states = hold(machine, cuts, running, wanted, deep=True)
    assert states > len(cuts)


def test_reading_back_while_the_rest_still_comes_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "_STRIDE", 2 * 4096)
    monkeypatch.setattr(following, "PIECE", 4096)
    machine, running, wanted = second_update()
    done, cuts = run(machine, running, make_attempt(wanted), _SEQUENCE, overlap=True)
    assert done.step == "activated"
    assert machine.boots() is wanted
    hold(machine, cuts, running, wanted, deep=False)


def test_an_esp_that_only_claims_to_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law is not held by luck: without its syncs an update breaks a machine."""
    machine, running, wanted = second_update()
    monkeypatch.setattr(FakeEsp, "sync", lambda _self: None)
    _, cuts = run(machine, running, make_attempt(wanted), _SEQUENCE)
    with pytest.raises((AssertionError, HostError)):
        hold(machine, cuts, running, wanted, deep=False)


def test_a_disk_that_only_claims_to_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, running, wanted = second_update()
    monkeypatch.setattr(FakeDisk, "sync", lambda _self: None)
    _, cuts = run(machine, running, make_attempt(wanted), _SEQUENCE)
    with pytest.raises((AssertionError, HostError)):
        hold(machine, cuts, running, wanted, deep=False)


@pytest.mark.parametrize("left", [None, 0])
def test_a_cut_while_an_entry_is_judged_leaves_it_judged_or_not(left: int | None) -> None:
    machine, running, wanted = second_update()
    done, _ = run(machine, running, make_attempt(wanted), _SEQUENCE)
    cuts: list[Cut] = []
    medium = machine.medium

    def instant() -> None:
        cuts.append(Cut(dict(medium.durable), list(medium.pending), done))

    medium.before_sync = instant
    entries.set_counter(machine.esp, done.entry, left)
    lot = random.Random(1)
    for at in cuts:
        for kept in outcomes(at.pending, lot):
            found = after(machine, at, kept)
            boots = found.boots()
            assert boots is wanted or (left == 0 and boots is running)
            entries.set_counter(found.esp, done.entry, left)
            assert found.boots() is (running if left == 0 else wanted)
            assert len([e for e in found.slots(running).entries() if e.id == done.entry]) == 1


class PowerCut(Exception):
    """The power is gone, with what of the pending writes reached the medium."""

    def __init__(self, kept: list[Op]) -> None:
        super().__init__("power cut")
        self.kept = kept


class Life:
    """A machine that is updated, judged, rolled back and cut off, over and over."""

    def __init__(self, lot: random.Random) -> None:
        self.lot = lot
        self.machine = new_machine(EVERY)
        self.running = V1
        self.before: Built | None = None  # what a release that is given up goes back to
        self.given_up: Built | None = None  # that, while it is being given up
        self.attempt: Attempt | None = None
        self.sequence = 0
        self.cuts = 0
        self.updates = 0

    def turn(self) -> None:
        """Something happens; perhaps with a power cut in it."""
        self.machine.medium.before_sync = self._perhaps_cut
        try:
            if self.machine.slots(self.running).entries()[0].tries_left is None:
                self._update()
            else:
                self._judge()
        except PowerCut as power:
            self.cuts += 1
            medium = cut(self.machine.medium.durable, power.kept)
            self.machine = Machine(medium, self.machine.built, self.machine.clusters)
            check_filesystem(self.machine)
        self.machine.medium.before_sync = None
        boots = self.machine.boots()
        if boots is self.given_up:
            self.running = boots
        self.given_up = None
        wanted = self.attempt.release.name if self.attempt is not None else ""
        assert boots is self.running or boots.release.name == wanted
        if boots is not self.running:
            self.before = self.running
            self.running, self.attempt = boots, None
            self.updates += 1

    def _update(self) -> None:
        if self.attempt is None:
            others = [each for each in EVERY if each is not self.running]
            self.sequence += 1
            self.attempt = make_attempt(self.lot.choice(others))
        slots = self.machine.slots(self.running, self.machine.entry())
        slots.apply(self.attempt, FakeSource(EVERY), self._note, sequence=self.sequence)

    def _judge(self) -> None:
        left = None if self.lot.random() < 0.7 else 0
        self.given_up = self.before if left == 0 else None
        entries.set_counter(self.machine.esp, self.machine.entry(), left)
        assert (self.machine.boots() is self.running) == (left is None)

    def _note(self, attempt: Attempt) -> None:
        self._perhaps_cut()
        self.attempt = attempt

    def _perhaps_cut(self) -> None:
        if self.lot.random() < 0.06:
            share = self.lot.random()
            pending = self.machine.medium.pending
            raise PowerCut([op for op in pending if self.lot.random() < share])


def check_filesystem(machine: Machine) -> None:
    """As fsck.vfat: clusters that no name leads to are free again."""
    named = {pair[0] for _, pair in machine.medium.all("name") if pair}
    for number, _ in list(machine.medium.all("chain")):
        if number not in named:
            machine.medium.put("chain", number, None)
    machine.esp.sync()


@pytest.mark.soak
def test_a_long_life_with_many_cuts(request: pytest.FixtureRequest) -> None:
    """Each round of ``make soak`` is another life; the first is the same everywhere."""
    spec = getattr(request.node, "callspec", None)
    seed = spec.params.get("soak_round", 1) if spec is not None else 1
    life = Life(random.Random(seed))
    for _ in range(150):
        life.turn()
    assert life.cuts > 10, f"seed {seed}"
    assert life.updates > 10, f"seed {seed}"
