"""Renaming partitions: one copy of the table is whole at any time, and says the old or the new."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agent import gpt
from pipeline.disk import gpt as built
from pipeline.errors import HostError
from tests.fakes.disk import FakeDisk, Medium
from tests.fakes.slots import Machine, make_table, write_table

SIZE = Machine.DISK
FIRST, SECOND = 512, SIZE - 512


@pytest.fixture
def disk() -> FakeDisk:
    found = FakeDisk(Medium(), SIZE)
    write_table(found, make_table(SIZE))
    found.sync()
    return found


def named(disk: FakeDisk, number: int, label: str = "v2") -> dict[int, gpt.Partition]:
    partition = gpt.read(disk).partitions[number - 1]
    new = gpt.named(partition, uuid.UUID(int=42), label, attributes=gpt.READ_ONLY)
    return {number: new}


def damage(disk: FakeDisk, at: int) -> None:
    sector = bytearray(disk.read(at, 512))
    sector[60] ^= 1
    disk.write(at, bytes(sector))
    disk.sync()


def copies(disk: FakeDisk) -> list[tuple[gpt.Partition, ...]]:
    """What each copy says, read alone."""
    found = []
    for other in (SECOND, FIRST):
        alone = FakeDisk(Medium(dict(disk.medium.durable)), SIZE)
        damage(alone, other)
        found.append(gpt.read(alone).partitions)
    return found


def test_a_partition_gets_its_new_names_in_both_copies_and_nothing_else_changes(
    disk: FakeDisk,
) -> None:
    before = gpt.read(disk).partitions
    wanted = named(disk, 4)
    gpt.rename(disk, wanted)
    after = tuple(wanted.get(each.number, each) for each in before)
    assert copies(disk) == [after, after]
    assert after[3].label == "v2"


@pytest.mark.parametrize("damaged", [FIRST, SECOND, FIRST + 512, SECOND - 512])
def test_one_damaged_copy_is_made_good_again(disk: FakeDisk, damaged: int) -> None:
    wanted = named(disk, 4)
    damage(disk, damaged)
    gpt.rename(disk, wanted)
    first, second = copies(disk)
    assert first == second
    assert first[3] == wanted[4]


def test_an_edit_that_changes_nothing_still_makes_a_damaged_copy_good(disk: FakeDisk) -> None:
    before = gpt.read(disk).partitions
    damage(disk, FIRST)
    gpt.rename(disk, {})
    assert copies(disk) == [before, before]


def test_without_a_whole_copy_the_disk_is_named(disk: FakeDisk) -> None:
    damage(disk, FIRST)
    damage(disk, SECOND)
    with pytest.raises(HostError, match="/dev/fake has no partition table"):
        gpt.read(disk)
    with pytest.raises(HostError, match="no partition table"):
        gpt.rename(disk, {})


def test_what_an_interrupted_edit_left_in_the_second_copy_is_overruled(disk: FakeDisk) -> None:
    """The kernel reads the first copy as long as it is whole: so does the next edit."""
    old = gpt.read(disk)
    second = old.elsewhere(old.other, old.other - len(old.raw) // 512)
    second = second.renamed(named(disk, 4, "cut off")[4])
    disk.write(second.entries * 512, second.raw)
    disk.write(second.header * 512, second.header_sector())
    disk.sync()
    wanted = named(disk, 5)
    gpt.rename(disk, wanted)
    first, other = copies(disk)
    assert first == other
    assert (first[3].label, first[4].label) == (gpt.EMPTY, "v2")


def test_the_second_copy_of_an_image_on_a_larger_disk_is_found() -> None:
    disk = FakeDisk(Medium(), SIZE + (64 << 10))
    write_table(disk, make_table(SIZE))
    wanted = named(disk, 4)
    damage(disk, SECOND)
    gpt.rename(disk, wanted)
    damage(disk, FIRST)
    with pytest.raises(HostError):  # a reader looks at the disk's end alone
        gpt.read(disk)
    assert FakeDisk(disk.medium, SIZE).read(SECOND, 8) == b"EFI PART"


def test_a_partition_that_is_not_there_is_refused(disk: FakeDisk) -> None:
    partition = gpt.read(disk).partitions[0]
    with pytest.raises(HostError, match="no partition 9"):
        gpt.rename(disk, {9: partition})


def test_a_disk_that_keeps_nothing_is_told_so(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = named(disk, 4)
    monkeypatch.setattr(FakeDisk, "write", lambda *_: None)
    with pytest.raises(HostError, match="does not keep"):
        gpt.rename(disk, wanted)


@given(
    identity=st.uuids(),
    label=st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=60),
    attributes=st.integers(0, (1 << 64) - 1),
    number=st.integers(1, 6),
)
def test_names_are_read_back_as_they_were_given(
    identity: uuid.UUID, label: str, attributes: int, number: int
) -> None:
    table = make_table(SIZE)
    partition = table.partitions[number - 1]
    new = gpt.named(partition, identity, label, attributes=attributes)
    assert table.renamed(new).partitions[number - 1] == new
    assert len(new.label) <= gpt.LABEL


@given(st.binary(min_size=32, max_size=32))
def test_a_slot_is_called_as_the_build_calls_it(root_hash: bytes) -> None:
    assert gpt.partition_uuids(root_hash.hex()) == built.partition_uuids(root_hash.hex())


def test_an_empty_partition_has_a_name_of_its_own() -> None:
    table = make_table(SIZE)
    names = {gpt.empty_uuid(table, each) for each in table.partitions}
    assert len(names) == len(table.partitions)
    assert names == {gpt.empty_uuid(table, each) for each in table.partitions}
