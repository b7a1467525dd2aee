"""The other slot: what is refused, what is left alone, and what an update does to the disk."""

from __future__ import annotations

import pytest

from pipeline.agent import entries, gpt
from pipeline.agent.base import Slots
from pipeline.agent.slots import DiskSlots
from pipeline.agent.verity import Recipe
from pipeline.command import Stop
from pipeline.errors import DigestError, DiskFullError, HostError, Interrupted, NetworkError
from pipeline.models.device import Attempt, Step
from tests.fakes.disk import FakeDisk
from tests.fakes.slots import (
    Built,
    FakeSource,
    Machine,
    build,
    make_attempt,
    new_machine,
    update,
)

V1, V2, V3, TWIN = build(1), build(2), build(3), build(4, content=1)
EVERY = (V1, V2, V3, TWIN)


@pytest.fixture
def machine() -> Machine:
    return new_machine(EVERY, clusters=100)


def gates(machine: Machine, wanted: Built, running: Built = V1) -> dict[str, tuple[bool, str]]:
    found = machine.slots(running).check(wanted.release)
    return {gate.name: (gate.passed, gate.reason) for gate in found}


def sized(built: Built, **sizes: int) -> Built:
    parts = {
        role: part.model_copy(update={"size": sizes.get(role, part.size)})
        for role, part in built.release.parts.items()
    }
    release = built.release.model_copy(update={"parts": parts})
    return Built(release, built.root, built.tree, built.uki)


def confirm(machine: Machine) -> None:
    machine.slots(V1).bless(machine.entry())


def apply(
    machine: Machine, running: Built, attempt: Attempt, source: FakeSource | None = None
) -> tuple[Attempt, list[Attempt]]:
    notes: list[Attempt] = []
    slots: Slots = machine.slots(running)
    done = slots.apply(attempt, source or FakeSource(EVERY), notes.append, sequence=5)
    return done, notes


class TestCheck:
    def test_what_fits_passes_with_its_sizes(self, machine: Machine) -> None:
        found = gates(machine, V2)
        assert list(found) == ["architecture", "slot size", "ESP space"]
        assert all(passed for passed, _ in found.values())
        assert found["slot size"][1] == "its root has 36.0 KiB of 40.0 KiB"

    def test_another_architecture_is_refused(self, machine: Machine) -> None:
        slots = DiskSlots(machine.disk, machine.esp, machine.slots(V1).running, machine="aarch64")
        gate = slots.check(V2.release)[0]
        assert not gate.passed
        assert gate.reason == f"{V2.release.name} is for amd64, this machine is arm64"

    def test_a_root_that_is_larger_than_its_slot_is_refused_with_both_sizes(
        self, machine: Machine
    ) -> None:
        passed, reason = gates(machine, sized(V2, root=11 * 4096))["slot size"]
        assert not passed
        assert "44.0 KiB" in reason
        assert "40.0 KiB" in reason

    def test_a_hash_tree_that_is_larger_than_its_partition_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, machine: Machine
    ) -> None:
        monkeypatch.setattr(Recipe, "tree_size", 4 * 4096)
        passed, reason = gates(machine, V2)["slot size"]
        assert not passed
        assert reason.startswith("its verity tree has 16.0 KiB")

    def test_a_disk_without_a_second_slot_is_explained(self, machine: Machine) -> None:
        disk = machine.disk
        table = gpt.read(disk)
        raw = table.raw[: 3 * 128] + bytes(len(table.raw) - 3 * 128)
        alone = gpt.Table(table.disk, 1, table.other, 2, table.usable, raw, 128)
        disk.write(1024, alone.raw)
        disk.write(512, alone.header_sector())
        passed, reason = gates(machine, V2)["slot size"]
        assert not passed
        assert "no second partition for a root" in reason
        assert gates(machine, TWIN)["slot size"][0], "for the root that runs no slot is needed"

    def test_an_esp_without_room_is_refused_with_sizes(self, machine: Machine) -> None:
        passed, reason = gates(machine, sized(V2, uki=90 << 10))["ESP space"]
        assert not passed
        assert "90.0 KiB" in reason
        assert "are lacking" in reason

    def test_what_will_be_removed_counts_as_room(self, machine: Machine) -> None:
        target = machine.esp.target(entries.uki_path("an-old-one"), 30 << 10)
        target.close()
        assert machine.esp.free() < 70 << 10
        assert gates(machine, sized(V2, uki=20 << 10))["ESP space"][0]

    def test_a_release_that_lacks_a_part_is_refused_not_tripped_over(
        self, machine: Machine
    ) -> None:
        bare = V2.release.model_copy(update={"parts": {}})
        found = {gate.name: gate for gate in machine.slots(V1).check(bare)}
        assert not found["slot size"].passed
        assert found["ESP space"].reason == f"{bare.name} was published without a boot file"
        assert not gates(machine, sized(V2, root=4097))["slot size"][0]

    def test_checking_writes_nothing(self, machine: Machine) -> None:
        before = (dict(machine.medium.durable), list(machine.medium.pending))
        gates(machine, V2)
        assert (dict(machine.medium.durable), list(machine.medium.pending)) == before

    def test_a_machine_that_could_not_go_back_is_not_updated(self, machine: Machine) -> None:
        machine.esp.remove(f"{entries.FACTORY}/{V1.release.name}.efi")
        with pytest.raises(HostError, match="nothing could be gone back to"):
            machine.slots(V1).check(V2.release)
        with pytest.raises(HostError, match="nothing could be gone back to"):
            apply(machine, V1, make_attempt(V2))

    def test_a_disk_that_does_not_hold_what_runs_is_not_touched(self, machine: Machine) -> None:
        with pytest.raises(HostError, match="no partitions with the root"):
            apply(machine, V2, make_attempt(V3))


class TestApply:
    def test_each_step_is_noted_once_in_order_with_its_time(self, machine: Machine) -> None:
        done, notes = apply(machine, V1, make_attempt(V2))
        steps: list[Step] = [each.step for each in notes]
        assert steps == ["cleared", "written", "verified", "named", "staged", "activated"]
        assert set(done.seconds) == set(steps)
        assert done == notes[-1]
        assert done.written == len(V2.root) + len(V2.uki)
        assert done.entry == "recast-5.conf"

    @pytest.mark.parametrize("until", ["written", "named", "staged"])
    def test_it_stops_where_it_is_told_to(self, machine: Machine, until: Step) -> None:
        notes: list[Attempt] = []
        slots = machine.slots(V1)
        source = FakeSource(EVERY)
        done = slots.apply(make_attempt(V2), source, notes.append, sequence=5, until=until)
        assert done.step == notes[-1].step == until
        assert machine.boots() is V1
        assert slots.apply(done, source, notes.append, sequence=5, until="chosen") == done
        assert slots.apply(done, source, notes.append, sequence=6).step == "activated"
        assert machine.entry() == "recast-5.conf"
        assert source.filled == ["root", "uki"]

    def test_a_wrong_root_is_refused_and_leaves_the_slot_empty(self, machine: Machine) -> None:
        wrong = V2.root[:-1] + b"\0"
        source = FakeSource(EVERY, wrong={"root": wrong})
        notes: list[Attempt] = []
        with pytest.raises(DigestError, match="read back from /dev/fake"):
            machine.slots(V1).apply(make_attempt(V2), source, notes.append, sequence=5)
        assert notes[-1].step == "cleared", "the next try brings it again"
        layout = machine.slots(V1).layout()
        assert layout.is_named(layout.emptied)
        assert machine.boots() is V1
        done, _ = apply(machine, V1, notes[-1])
        assert done.step == "activated"

    def test_a_root_that_cannot_be_read_back_is_written_once_more(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layout = machine.slots(V1).layout()
        bad = range(layout.other_root.first, layout.other_root.last + 1)
        read = FakeDisk._sector
        notes = [make_attempt(V2)]

        def fail(disk: FakeDisk, number: int) -> bytes:
            if number in bad and notes[-1].step == "written":
                raise HostError("an unreadable sector")
            return read(disk, number)

        monkeypatch.setattr(FakeDisk, "_sector", fail)
        slots, source = machine.slots(V1), FakeSource(EVERY)
        with pytest.raises(HostError, match="unreadable"):
            slots.apply(notes[-1], source, notes.append, sequence=5)
        assert notes[-1].step == "cleared"
        assert slots.apply(notes[-1], source, lambda _: None, sequence=5).step == "activated"
        assert source.filled == ["root", "root", "uki"]

    def test_a_slot_that_cannot_be_read_is_not_used_again_but_written(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update(machine, V1, V2, 1)
        confirm(machine)
        layout = machine.slots(V2).layout()
        read = FakeDisk._sector
        mended: list[int] = []

        def fail(disk: FakeDisk, number: int) -> bytes:
            if number == layout.other_root.first + 9 and not mended:
                mended.append(number)
                raise HostError("an unreadable sector")
            return read(disk, number)

        monkeypatch.setattr(FakeDisk, "_sector", fail)
        done, _ = apply(machine, V2, make_attempt(V1))
        assert (done.reuse, done.step) == (False, "activated")
        assert machine.boots() is V1

    def test_a_wrong_boot_file_is_refused_and_removed(self, machine: Machine) -> None:
        source = FakeSource(EVERY, wrong={"uki": b"x" * len(V2.uki)})
        notes: list[Attempt] = []
        with pytest.raises(DigestError, match="boot file"):
            machine.slots(V1).apply(make_attempt(V2), source, notes.append, sequence=5)
        assert notes[-1].step == "named"
        assert machine.esp.files(entries.UKIS) == ()
        done, _ = apply(machine, V1, notes[-1])
        assert done.step == "activated"

    def test_after_a_dead_link_nothing_that_is_right_is_brought_again(
        self, machine: Machine
    ) -> None:
        notes: list[Attempt] = []
        with pytest.raises(NetworkError):
            machine.slots(V1).apply(
                make_attempt(V2), FakeSource(EVERY, fails_after=5), notes.append, sequence=5
            )
        done, _ = apply(machine, V1, notes[-1])
        assert done.written == len(V2.root) - 5 * 4096 + len(V2.uki)

    def test_a_stop_ends_it_between_two_pieces(self, machine: Machine) -> None:
        stop = Stop()
        stop.set()
        slots = machine.slots(V1)
        with pytest.raises(Interrupted):
            slots.apply(make_attempt(V2), FakeSource(EVERY), print, sequence=5, stop=stop)

    def test_the_boot_file_and_entry_of_the_slots_old_content_go(self, machine: Machine) -> None:
        update(machine, V1, V2, 1)
        confirm(machine)
        update(machine, V2, V3, 2)
        assert machine.esp.files(entries.FACTORY) == ()
        assert machine.esp.files(entries.UKIS) == tuple(
            sorted(f"{each.release.name}.efi" for each in (V2, V3))
        )
        assert machine.esp.files(entries.ENTRIES) == ("recast-1.conf", "recast-2+3.conf")

    def test_the_running_slot_is_not_written(self, machine: Machine) -> None:
        layout = machine.slots(V1).layout()
        mine = range(layout.root.first, layout.verity.last + 1)
        before = {n: machine.medium.get("sector", n) for n in mine}
        machine.medium.durable.clear()  # what is written from here on comes back to it
        apply(machine, V1, make_attempt(V2))
        assert not {key for key in machine.medium.durable if key[0] == "sector"} & {
            ("sector", n) for n in mine
        }
        assert {n: machine.medium.get("sector", n) for n in mine} == before

    def test_a_release_on_trial_is_not_replaced(self, machine: Machine) -> None:
        """The other slot is what it goes back to."""
        update(machine, V1, V2, 1)
        with pytest.raises(HostError, match="still on trial"):
            apply(machine, V2, make_attempt(V3))
        machine.check_slot(V1)

    def test_a_rollback_to_what_the_other_slot_holds_brings_nothing(self, machine: Machine) -> None:
        update(machine, V1, V2, 1)
        confirm(machine)
        assert machine.slots(V2).holds(V1.release)
        source = FakeSource(EVERY)
        done, _ = apply(machine, V2, make_attempt(V1), source)
        assert (done.reuse, source.filled, machine.boots()) == (True, [], V1)

    def test_another_kernel_for_the_same_root_brings_a_boot_file_alone(
        self, machine: Machine
    ) -> None:
        source = FakeSource(EVERY)
        done, _ = apply(machine, V1, make_attempt(TWIN), source)
        assert (done.same_root, source.filled, machine.boots()) == (True, ["uki"], TWIN)

    def test_another_kernel_leaves_the_other_slot_bootable_if_there_is_room(
        self, machine: Machine
    ) -> None:
        update(machine, V1, V2, 1)
        confirm(machine)
        again = build(6, content=2)
        machine.built = {**machine.built, again.release.name: again}
        done, _ = apply(machine, V2, make_attempt(again), FakeSource((*EVERY, again)))
        assert done.same_root
        assert f"{V1.release.name}.efi" in machine.esp.files(entries.FACTORY)

    def test_an_entry_number_that_is_in_use_is_not_used_again(self, machine: Machine) -> None:
        """A machine that has lost its memory counts on from its ESP."""
        update(machine, V1, V2, 9)
        confirm(machine)
        done = update(machine, V2, V3, 1)
        assert done.entry == "recast-10.conf"
        assert machine.boots() is V3

    def test_an_entry_that_was_tried_already_gets_no_new_tries(self, machine: Machine) -> None:
        """Power failed after the entry was written, before that was noted; then it was tried."""
        notes: list[Attempt] = []
        slots = machine.slots(V1)
        slots.apply(make_attempt(V2), FakeSource(EVERY), notes.append, sequence=5)
        slots.give_up("recast-5.conf")
        done, _ = apply(machine, V1, notes[-2])
        assert done.step == "activated"
        assert machine.boots() is V1

    def test_a_journal_that_is_older_than_the_disk_does_no_harm(self, machine: Machine) -> None:
        """It says that the slot is cleared; since then it was filled."""
        _, notes = apply(machine, V1, make_attempt(V2))
        done, again = apply(machine, V1, notes[0])
        assert [each.step for each in again][:2] == ["chosen", "named"], "the slot is read"
        assert done.reuse
        assert machine.boots() is V2

    def test_a_full_esp_is_told_and_harms_nothing(self) -> None:
        machine = new_machine(EVERY, clusters=5)
        with pytest.raises(DiskFullError, match="EFI system partition"):
            apply(machine, V1, make_attempt(V2))
        assert machine.boots() is V1

    def test_progress_is_told_by_step(self, machine: Machine) -> None:
        heard: list[tuple[str, int, int]] = []
        machine.slots(V1).apply(
            make_attempt(V2),
            FakeSource(EVERY),
            lambda _: None,
            sequence=5,
            progress=lambda *told: heard.append(told),
        )
        assert {step for step, *_ in heard} == {"written", "verified", "staged"}
        for step, total in (("written", len(V2.root)), ("staged", len(V2.uki))):
            assert [t for t in heard if t[0] == step][-1] == (step, total, total)


def test_what_runs_is_offered_to_whoever_fetches(machine: Machine) -> None:
    """A kernel seldom changes with a release: on a thin link it must not be fetched again."""
    source = FakeSource(EVERY)
    apply(machine, V1, make_attempt(V2), source)
    assert source.offered["uki"] == [V1.uki]
    assert [root[: len(V1.root)] for root in source.offered["root"]] == [V1.root]
