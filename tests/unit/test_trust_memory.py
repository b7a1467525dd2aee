"""What a machine remembers of a store: cuts, damage, full disks, and a year in a drawer."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DiskFullError, HostError
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from tests.fakes.machine import WEB, Machine, version
from tests.fakes.pointers import make_pointer
from tests.fakes.repository import SignedStore, travel


@pytest.fixture
def signed() -> SignedStore:
    return SignedStore()


@pytest.fixture
def machine(signed: SignedStore, tmp_path: Path) -> Machine:
    machine = Machine(signed, tmp_path / "trust")
    assert machine.follow() == version(1)
    machine.store.operations.clear()
    return machine


IDLE = [("get_changed", layout.TIMESTAMP_KEY)]


class TestMemory:
    def test_a_kill_at_any_instant(self, signed: SignedStore, tmp_path: Path) -> None:
        """The first look, and one that brings everything new, cut before each change on disk."""
        cuts = 0
        old = Machine(signed, tmp_path / "old")
        old.follow()
        begin = signed.store.snapshot()
        signed.replace_key(layout.ONLINE, "online-2")
        signed.change_role(layout.TARGETS, lambda targets: None)
        signed.change("stable", make_pointer("stable", WEB, 2))
        new = signed.store.snapshot()
        for prepared in (False, True):
            for at in range(1, 200):
                machine = Machine(signed, tmp_path / f"{prepared}-{at}")
                if prepared:
                    signed.store.restore(begin)
                    machine.follow()
                    signed.store.restore(new)
                finished = _killed(machine, at)
                machine.reboot()
                assert machine.follow() == version(2)
                machine.reboot()
                machine.store.operations.clear()
                assert machine.follow() == version(2)
                assert machine.store.operations == IDLE
                if finished:
                    break
                cuts += 1
        assert cuts > 30

    @pytest.mark.parametrize("damage", ["empty", "cut", "noise", "folder", "link", "gone", "huge"])
    def test_damage_to_any_file(self, signed: SignedStore, tmp_path: Path, damage: str) -> None:
        machine = Machine(signed, tmp_path / "trust")
        signed.change_root(lambda root: None)
        signed.refresh()
        machine.follow()
        files = sorted(p for p in machine.folder.rglob("*") if not p.is_dir())
        names = [str(path.relative_to(machine.folder)) for path in files]
        assert {"seen.json", "metadata/timestamp.json", "metadata/root.json"} <= set(names)
        assert "metadata/root_history/2.root.json" in names
        for path in (path for path in files if path.name != "lock"):
            _spoil(path, damage)
            machine.reboot()
            assert machine.follow() == version(1), (path, damage)
            machine.reboot()
            machine.store.operations.clear()
            assert not machine.client.check(), (path, damage)
            assert machine.wanted() == version(1)
            assert machine.store.operations == IDLE, (path, damage)

    def test_damage_to_all_files(self, machine: Machine) -> None:
        for path in [p for p in machine.folder.rglob("*") if p.is_file()]:
            path.write_bytes(os.urandom(50))
        machine.reboot()
        assert machine.follow() == version(1)

    @pytest.mark.parametrize("name", ["metadata", "metadata/root_history", "pointers"])
    def test_a_folder_that_is_a_file(self, machine: Machine, name: str) -> None:
        place = machine.folder / name
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() else path.rmdir()
        place.rmdir()
        place.write_bytes(b"")
        machine.reboot()
        assert machine.follow() == version(1)

    def test_the_folder_vanishes_below_a_running_client(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        for path in sorted(machine.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        assert machine.wanted("dev") == version(1)
        signed.change("stable", make_pointer("stable", WEB, 2))
        assert machine.follow() == version(2)

    def test_a_folder_that_cannot_be_made(self, signed: SignedStore, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(HostError, match="cannot be kept in") as caught:
            Machine(signed, tmp_path / "file" / "trust").client.check()
        assert "remove the folder" in caught.value.hint

    def test_a_full_disk(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signed.change("stable", make_pointer("stable", WEB, 2))

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(DiskFullError, match=str(machine.folder)):
                machine.client.check()
        assert machine.follow() == version(2)

    def test_two_programs_share_a_folder(self, signed: SignedStore, machine: Machine) -> None:
        other = TrustClient(machine.store, machine.folder, signed.root)
        assert not other.check()
        signed.change("stable", make_pointer("stable", WEB, 2))
        signed.change("dev", make_pointer("dev", WEB, 2))
        assert machine.follow() == version(2)
        # The other one goes on with the state that it has verified, until it looks again.
        release = other.pointer("dev", WEB).release
        assert release is not None
        assert release.version == version(1)
        assert other.check()
        assert other.pointer("stable", WEB) == machine.client.pointer("stable", WEB)

    def test_a_year_in_a_drawer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything that it remembers has run out, its root too; the store is fresh."""
        long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=500)
        signed = SignedStore(moment=long_ago)
        machine = Machine(signed, tmp_path)
        with monkeypatch.context() as then:
            travel(then, long_ago)
            assert machine.follow() == version(1)
        for _ in range(3):
            signed.moment += timedelta(days=166)
            signed.replace_key(layout.ONLINE, f"online-{signed.moment}")
            signed.change_role(layout.TARGETS, lambda targets: None)
            signed.change("stable", make_pointer("stable", WEB, 2))
        machine.reboot()
        assert machine.follow() == version(2)

    def test_recall_needs_no_store(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine.reboot()
        machine.store.faults.add("5xx")
        assert machine.client.recall()
        assert machine.wanted() == version(1)
        assert machine.store.operations == []
        machine.reboot()
        travel(monkeypatch, signed.moment + timedelta(days=8))
        assert not machine.client.recall()

    def test_recall_of_nothing(self, signed: SignedStore, tmp_path: Path) -> None:
        assert not Machine(signed, tmp_path).client.recall()


def _spoil(path: Path, damage: str) -> None:
    data = path.read_bytes()
    path.unlink()
    make: dict[str, Callable[[], object]] = {
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: path.write_bytes(data[: len(data) // 2]),
        "noise": lambda: path.write_bytes(b"\xff\0" * 300),
        "folder": lambda: (path / "inside").mkdir(parents=True),
        "link": lambda: path.symlink_to("/nonexistent/nowhere"),
        "gone": lambda: None,
        "huge": lambda: _grow(path, 1 << 34),
    }
    make[damage]()


def _grow(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


_CHANGES = ("open", "os.rename", "os.remove", "os.symlink", "os.mkdir")


def _killed(machine: Machine, at: int) -> bool:
    """Look for news in a process that dies before its *at*-th step on the disk.

    Returns:
        Did it get to the end?
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads of other tests
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder, left = str(machine.folder), at

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES and str(args[0]).startswith(folder):
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(count)
    try:
        machine.follow()
    except BaseException:
        os._exit(1)
    os._exit(0)
