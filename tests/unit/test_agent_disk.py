"""A machine's disk: finding it, reading past what memory keeps of it, staying within a part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.agent.blocks import FileDisk, Part
from pipeline.agent.slots import find_disk
from pipeline.errors import HostError
from tests.fakes.slots import Machine, build, new_machine

V1 = build(1)


@pytest.fixture
def machine() -> Machine:
    return new_machine((V1,))


class TestFindDisk:
    """With a made-up /sys and /dev."""

    def make(self, folder: Path, machine: Machine, names: dict[str, bool]) -> tuple[Path, Path]:
        sys, dev = folder / "sys", folder / "dev"
        (sys / "class/block").mkdir(parents=True)
        dev.mkdir()
        for name, right in names.items():
            (sys / "class/block" / name).mkdir()
            data = machine.disk.read(0, machine.DISK) if right else bytes(machine.DISK)
            (dev / name).write_bytes(data)
        return sys, dev

    def test_the_disk_that_holds_the_running_root_is_found(
        self, tmp_path: Path, machine: Machine
    ) -> None:
        sys, dev = self.make(tmp_path, machine, {"sda": False, "vda": True})
        assert find_disk(V1.release.root_hash, sys=sys, dev=dev) == dev / "vda"

    def test_of_two_with_one_image_the_one_below_the_mounted_root_is_taken(
        self, tmp_path: Path, machine: Machine
    ) -> None:
        sys, dev = self.make(tmp_path, machine, {"sda": True, "sdb": True})
        blocks = sys / "class/block"
        (blocks / "sdb/sdb2").mkdir()
        (blocks / "sdb/sdb2/partition").write_text("2\n")
        (blocks / "sdb2").symlink_to("sdb/sdb2")
        (blocks / "dm-0/dm").mkdir(parents=True)
        (blocks / "dm-0/dm/name").write_text("root\n")
        (blocks / "dm-0/slaves/sdb2").mkdir(parents=True)
        assert find_disk(V1.release.root_hash, sys=sys, dev=dev) == dev / "sdb"

    def test_without_such_a_disk_it_is_said_what_is_looked_for(
        self, tmp_path: Path, machine: Machine
    ) -> None:
        sys, dev = self.make(tmp_path, machine, {"sda": False})
        with pytest.raises(HostError, match="no disk of this machine"):
            find_disk(V1.release.root_hash, sys=sys, dev=dev)


class TestFileDisk:
    def test_what_was_written_is_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(bytes(10000))
        with FileDisk(path) as disk:
            disk.write(100, b"abc")
            disk.sync()
            disk.forget(0, 10000)
            assert disk.read(99, 5) == b"\0abc\0"
            with pytest.raises(HostError, match="nothing is written past"):
                disk.write(9999, b"ab")
            with pytest.raises(HostError, match="ends at"):
                disk.read(9999, 2)
        with pytest.raises(HostError, match="cannot open the disk"):
            FileDisk(tmp_path / "none")

    def test_a_look_at_a_disk_does_not_open_it_for_writing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Udev would look at the disk anew, and at all its partitions, at each turn."""
        path = tmp_path / "disk"
        path.write_bytes(bytes(10000))
        flags: list[int] = []
        opened = os.open

        def listen(where: Path, how: int) -> int:
            flags.append(how)
            return opened(where, how)

        monkeypatch.setattr("pipeline.agent.blocks.os.open", listen)
        with FileDisk(path) as disk:
            disk.read(0, 100)
            disk.sync()
            with disk.locked():
                disk.forget(0, 100)
            assert not any(flag & (os.O_RDWR | os.O_WRONLY) for flag in flags)
            disk.write(0, b"a")
            disk.sync()
            assert disk.read(0, 1) == b"a"

    def test_a_partition_cannot_be_left(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(bytes(10000))
        with FileDisk(path) as disk:
            part = Part(disk, 1000, 100)
            for offset, size in ((-1, 1), (99, 2), (0, 101)):
                with pytest.raises(HostError):
                    part.read(offset, size)
                with pytest.raises(HostError):
                    part.write(offset, bytes(size))
