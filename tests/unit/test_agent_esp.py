"""Boot entries: which the boot loader takes, what they say, and how a counter is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agent import entries
from pipeline.agent.base import Entry
from pipeline.agent.esp import MountedEsp
from pipeline.errors import HostError
from tests.fakes.slots import Built, build

V1, V2, V3 = build(1), build(2), build(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("EFI/BOOT", "EFI/Linux", "loader"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "loader/loader.conf").write_text("timeout 0\n")
    return tmp_path


@pytest.fixture
def esp(root: Path) -> MountedEsp:
    return MountedEsp(root)


def factory(root: Path, built: Built, counter: str = "") -> str:
    name = f"{built.release.name}{counter}.efi"
    (root / "EFI/Linux" / name).write_bytes(built.uki)
    return f"{built.release.name}.efi"


def add(esp: MountedEsp, built: Built, sequence: int, left: int | None, done: int = 0) -> str:
    release = built.release
    uki, entry = entries.uki_path(release.name), entries.entry_id(sequence)
    entries.write_file(esp, uki, built.uki)
    text = entries.entry_text(release.name, release.root_hash, sequence, uki)
    path = f"{entries.ENTRIES}/{entries.counted(entry, left, done)}"
    entries.write_file(esp, path, text)
    return entry


def listed(esp: MountedEsp) -> list[Entry]:
    return list(entries.bootable(entries.read_boot_files(esp)))


def test_the_newest_update_comes_first_and_the_factorys_disk_after_all_updates(
    root: Path, esp: MountedEsp
) -> None:
    first = factory(root, V1)
    add(esp, V2, 9, None)
    add(esp, V3, 10, 3)
    assert [each.id for each in listed(esp)] == ["recast-10.conf", "recast-9.conf", first]


def test_what_has_no_tries_left_comes_last(root: Path, esp: MountedEsp) -> None:
    first = factory(root, V1)
    add(esp, V2, 9, None)
    add(esp, V3, 10, 0, 3)
    assert [each.id for each in listed(esp)] == ["recast-9.conf", first, "recast-10.conf"]


def test_an_entry_says_what_it_boots_and_how_often_it_was_tried(
    root: Path, esp: MountedEsp
) -> None:
    factory(root, V1, "+2-1")
    add(esp, V2, 7, 1, 2)
    newer, older = V2.release, V1.release
    assert listed(esp) == [
        Entry("recast-7.conf", newer.name, newer.root_hash, 1, 2),
        Entry(f"{older.name}.efi", older.name, older.root_hash, 2, 1),
    ]


@given(
    stem=st.from_regex(r"[a-z0-9_.-]{1,30}(\+x)?", fullmatch=True),
    left=st.none() | st.integers(0, 99),
    done=st.integers(0, 99),
    suffix=st.sampled_from(["conf", "efi"]),
)
def test_a_counter_is_read_as_it_was_written(
    stem: str, left: int | None, done: int, suffix: str
) -> None:
    entry = f"{stem}.{suffix}"
    found = entries._named(entries.counted(entry, left, done))
    assert (found.id, found.tries_left) == (entry, left)
    assert found.tries_done == (done if left is not None else 0)


def test_an_entry_whose_boot_file_is_gone_leads_nowhere(esp: MountedEsp) -> None:
    add(esp, V2, 7, 3)
    esp.remove(entries.uki_path(V2.release.name))
    assert listed(esp) == []


@pytest.mark.parametrize("length", range(0, 180, 20))
def test_half_of_an_entry_boots_nothing(esp: MountedEsp, length: int) -> None:
    name = V2.release.name
    entries.write_file(esp, entries.uki_path(name), V2.uki)
    text = entries.entry_text(name, V2.release.root_hash, 7, entries.uki_path(name))
    esp_text = text[:length].ljust(len(text), b"\0")
    entries.write_file(esp, f"{entries.ENTRIES}/recast-7+3.conf", esp_text)
    assert listed(esp) == []


def test_an_entry_fits_in_one_sector_so_that_it_is_written_whole() -> None:
    name = "an-image-with-a-rather-long-name_20260301.130000.g0123456789ab.dirty.01234567_amd64"
    path = entries.uki_path(name)
    assert len(entries.entry_text(name, "0" * 64, 1 << 31, path)) <= 512


@pytest.mark.parametrize(
    "junk",
    [b"", b"MZ", b"\0" * 5000, b"MZ" + b"\xff" * 5000, V1.uki[:200]],
    ids=["empty", "short", "zeros", "ones", "cut off"],
)
def test_a_broken_boot_file_is_no_entry_and_stops_nothing(
    root: Path, esp: MountedEsp, junk: bytes
) -> None:
    (root / "EFI/Linux/broken.efi").write_bytes(junk)
    first = factory(root, V1)
    assert [each.id for each in listed(esp)] == [first]


def test_blessing_takes_the_counter(root: Path, esp: MountedEsp) -> None:
    entry = add(esp, V2, 7, 2, 1)
    entries.set_counter(esp, entry, None)
    entries.set_counter(esp, entry, None)
    assert [path.name for path in (root / entries.ENTRIES).iterdir()] == ["recast-7.conf"]
    assert listed(esp)[0].tries_left is None


@pytest.mark.parametrize("left", [None, 3])
def test_giving_up_leaves_no_tries(root: Path, esp: MountedEsp, left: int | None) -> None:
    first = factory(root, V1)
    entry = add(esp, V2, 7, left)
    entries.set_counter(esp, entry, 0)
    assert [each.id for each in listed(esp)] == [first, entry]
    assert [path.name for path in (root / entries.ENTRIES).iterdir()] == ["recast-7+0.conf"]


def test_the_factorys_entry_is_judged_by_its_name(root: Path, esp: MountedEsp) -> None:
    entry = factory(root, V1, "+2-1")
    entries.set_counter(esp, entry, None)
    assert (root / "EFI/Linux" / entry).read_bytes() == V1.uki


def test_an_entry_under_two_names_is_the_blessed_one(esp: MountedEsp) -> None:
    """What a cut leaves while the counter is taken away."""
    add(esp, V2, 7, 2, 1)
    add(esp, V2, 7, None)
    assert [(each.id, each.tries_left) for each in listed(esp)] == [("recast-7.conf", None)]


def test_an_entry_that_is_not_there_is_named(esp: MountedEsp) -> None:
    with pytest.raises(HostError, match=r"no boot entry recast-3\.conf"):
        entries.set_counter(esp, "recast-3.conf", 0)


def test_a_person_s_own_entry_is_listed_and_not_ours(root: Path, esp: MountedEsp) -> None:
    (root / "loader/entries").mkdir()
    (root / "loader/entries/memtest.conf").write_text("title Memtest\nefi /EFI/memtest.efi\n")
    (root / "EFI/memtest.efi").write_bytes(b"MZ")
    found = entries.read_boot_files(esp)
    assert [(each.entry.id, each.ours) for each in found] == [("memtest.conf", False)]


def test_without_an_esp_nothing_is_written_to_the_folder_in_its_place(tmp_path: Path) -> None:
    """The root is under a memory overlay: what is written there would be forgotten."""
    esp = MountedEsp(tmp_path)
    with pytest.raises(HostError, match="no EFI system partition"):
        esp.target("EFI/recast/new.efi", 10)
    with pytest.raises(HostError, match="no EFI system partition"):
        esp.free()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_filled_in_pieces_and_keeps_what_is_right(esp: MountedEsp) -> None:
    target = esp.target("EFI/recast/a.efi", 5000)
    target.write(0, b"a" * 3000)
    target.sync()
    target.close()
    again = esp.target("EFI/recast/a.efi", 4000)
    assert again.read(0, 3000) == b"a" * 3000
    again.write(3000, b"b" * 1000)
    with pytest.raises(HostError, match="no more"):
        again.write(3999, b"cc")
    with pytest.raises(HostError, match="shorter"):
        again.read(3999, 2)
    again.sync()
    again.forget()
    again.close()
    assert esp.read("EFI/recast/a.efi") == b"a" * 3000 + b"b" * 1000
    assert esp.size("EFI/recast/a.efi") == 4000
