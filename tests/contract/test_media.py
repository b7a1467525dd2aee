"""What every disk and every ESP keeps to: the real ones, and those whose power can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.agent.blocks import Disk, FileDisk
from pipeline.agent.esp import Esp, MountedEsp
from pipeline.errors import HostError
from tests.fakes.disk import FakeDisk, FakeEsp, Medium

SIZE = 64 << 10


def file_disk(folder: Path) -> Disk:
    path = folder / "disk.raw"
    path.write_bytes(bytes(SIZE))
    return FileDisk(path)


def mounted_esp(folder: Path) -> Esp:
    (folder / "EFI").mkdir()
    return MountedEsp(folder)


@pytest.fixture(params=[file_disk, lambda _: FakeDisk(Medium(), SIZE)], ids=["file", "fake"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    make: Callable[[Path], Disk] = request.param
    return make(tmp_path)


@pytest.fixture(params=[mounted_esp, lambda _: FakeEsp(Medium(), 100)], ids=["mounted", "fake"])
def esp(request: pytest.FixtureRequest, tmp_path: Path) -> Esp:
    make: Callable[[Path], Esp] = request.param
    return make(tmp_path)


def write(esp: Esp, path: str, data: bytes) -> None:
    target = esp.target(path, len(data))
    target.write(0, data)
    target.sync()
    target.close()
    esp.sync()


class TestDisk:
    def test_what_was_written_is_read_before_and_after_it_is_synced(self, disk: Disk) -> None:
        disk.write(1024, b"a" * 512)
        assert disk.read(1000, 600) == bytes(24) + b"a" * 512 + bytes(64)
        disk.sync()
        disk.forget(0, disk.size)
        assert disk.read(1024, 512) == b"a" * 512

    def test_it_has_a_size_and_a_name(self, disk: Disk) -> None:
        assert disk.size == SIZE
        assert disk.name

    def test_nothing_is_read_past_its_end(self, disk: Disk) -> None:
        with pytest.raises(HostError):
            disk.read(SIZE - 512, 1024)

    def test_a_lock_is_held_and_let_go(self, disk: Disk) -> None:
        for _ in range(2):
            with disk.locked():
                disk.write(0, bytes(512))


class TestEsp:
    def test_a_file_is_read_as_it_was_written(self, esp: Esp) -> None:
        write(esp, "EFI/recast/a.efi", b"a" * 3000)
        assert esp.read("EFI/recast/a.efi") == b"a" * 3000
        assert esp.read("EFI/recast/a.efi", 2990, 100) == b"a" * 10
        assert esp.size("EFI/recast/a.efi") == 3000
        assert esp.files("EFI/recast") == ("a.efi",)

    def test_what_is_not_there_has_no_size_and_cannot_be_read(self, esp: Esp) -> None:
        assert esp.size("EFI/recast/a.efi") is None
        assert esp.files("EFI/recast") == ()
        with pytest.raises(HostError):
            esp.read("EFI/recast/a.efi")
        esp.remove("EFI/recast/a.efi")

    @pytest.mark.parametrize("size", [10, 2000, 5000])
    def test_what_a_file_holds_already_is_kept(self, esp: Esp, size: int) -> None:
        write(esp, "EFI/a.efi", bytes(range(200)) * 10)
        target = esp.target("EFI/a.efi", size)
        known = min(size, 2000)
        assert target.read(0, known) == (bytes(range(200)) * 10)[:known]
        assert target.size == esp.size("EFI/a.efi") == size
        target.close()

    def test_a_removed_file_gives_its_name_and_its_room_back(self, esp: Esp) -> None:
        write(esp, "EFI/a.efi", b"a" * 3000)
        free = esp.free()
        esp.remove("EFI/a.efi")
        esp.sync()
        assert esp.files("EFI") == ()
        # Others may use a real filesystem meanwhile.
        assert not isinstance(esp, FakeEsp) or esp.free() == free + esp.room(3000)

    def test_a_file_can_be_called_otherwise(self, esp: Esp) -> None:
        write(esp, "EFI/a+3.efi", b"a")
        esp.rename("EFI/a+3.efi", "EFI/a.efi")
        esp.sync()
        assert esp.files("EFI") == ("a.efi",)
        assert esp.read("EFI/a.efi") == b"a"

    def test_a_file_takes_whole_clusters(self, esp: Esp) -> None:
        cluster = esp.room(1)
        assert [esp.room(n) for n in (0, cluster, cluster + 1)] == [0, cluster, 2 * cluster]
