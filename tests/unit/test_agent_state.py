"""A machine's memory survives what data partitions do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.agent import state as module
from pipeline.agent.state import Mark, Memory, at_work
from pipeline.errors import BusyError, HostError
from pipeline.files import write_atomically
from pipeline.models.device import State


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "data/recast/agent", tmp_path / "run/agent"


def test_what_was_saved_is_there_again(folders: tuple[Path, Path]) -> None:
    memory = Memory(*folders, mount=None)
    assert memory.load() == State()
    memory.save(State(sequence=7, wanted="2"))
    again = Memory(*folders, mount=None)
    assert again.load() == State(sequence=7, wanted="2")
    assert again.problems == ()
    assert again.lasts
    assert (folders[0] / "state.json").stat().st_mode & 0o777 == 0o600


def test_the_file_and_its_name_are_on_the_disk_when_saving_returns(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    memory = Memory(*folders, mount=None)
    monkeypatch.setattr(os, "fsync", fsync)
    memory.save(State(sequence=1))
    assert Path(synced[0]).name.startswith(".state.json.")
    assert synced[-1] == str(folders[0])


@pytest.mark.parametrize("data", [b"", b"\x00" * 900, b'{"sequence": "many"}', b"\xff\xfe", b"[]"])
def test_a_damaged_file_is_kept_aside_and_told(folders: tuple[Path, Path], data: bytes) -> None:
    folders[0].mkdir(parents=True)
    (folders[0] / "state.json").write_bytes(data)
    memory = Memory(*folders, mount=None)
    assert memory.load() == State()
    assert "was damaged" in memory.problems[0]
    assert (folders[0] / "state.json.damaged").read_bytes() == data
    memory.save(State(sequence=2))
    assert Memory(*folders, mount=None).load().sequence == 2


def test_a_state_of_a_newer_agent_is_read_as_far_as_it_is_known(
    folders: tuple[Path, Path],
) -> None:
    folders[0].mkdir(parents=True)
    (folders[0] / "state.json").write_text('{"sequence": 9, "mood": "fine", "format": 2}')
    assert Memory(*folders, mount=None).load().sequence == 9


def test_a_folder_that_nothing_is_mounted_on_is_not_taken_for_a_disk(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    memory = Memory(*folders, mount=tmp_path)
    memory.save(State(sequence=3))
    assert not memory.lasts
    assert "nothing is mounted" in memory.problems[0]
    assert not folders[0].exists()
    assert Memory(*folders, mount=tmp_path).load().sequence == 3


def test_a_disk_that_fills_up_in_between_costs_nothing_before_the_next_boot(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(*folders, mount=None)
    memory.save(State(sequence=1))

    def full(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
        if path.parent == folders[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        memory.save(State(sequence=2))
        assert "No space left" in memory.problems[0]
        assert Memory(*folders, mount=None).load().sequence == 2
    again = Memory(*folders, mount=None)
    again.save(State(sequence=3))  # there is room again
    assert Memory(*folders, mount=None).load().sequence == 3
    assert not (folders[1] / "state.json").exists()


@pytest.mark.parametrize(
    ("less", "reason"),
    [({"f_bavail": 3}, "No space left"), ({"f_flag": os.ST_RDONLY}, "Read-only file system")],
)
def test_a_disk_that_is_full_or_read_only_is_known_before_anything_is_written(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    less: dict[str, int],
    reason: str,
) -> None:
    real = os.statvfs

    def statvfs(path: Path) -> object:
        found = real(path)
        names = ("f_flag", "f_bavail", "f_frsize")
        return SimpleNamespace(**{name: getattr(found, name) for name in names} | less)

    Memory(*folders, mount=None).save(State(sequence=1))
    monkeypatch.setattr(os, "statvfs", statvfs)
    memory = Memory(*folders, mount=None)
    assert reason in memory.problems[0]
    assert memory.load().sequence == 1
    memory.save(State(sequence=2))
    assert Memory(*folders, mount=None).load().sequence == 2


def test_if_nothing_can_be_remembered_at_all_it_is_an_error(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    folders[1].parent.mkdir(parents=True)
    folders[1].write_text("a file where a folder should be")
    with pytest.raises(HostError, match="remembered"):
        Memory(*folders, mount=tmp_path).save(State())


def test_marks_are_read_past_damage(folders: tuple[Path, Path]) -> None:
    folders[0].mkdir(parents=True)
    (folders[0] / "boots").write_bytes(b"a edge_1_amd64\n\xff\xfe\nb edge_2_amd64\ntorn")
    marks = Memory(*folders, mount=None).marks()
    assert marks == (Mark("a", "edge_1_amd64"), Mark("b", "edge_2_amd64"))


def test_of_two_agents_the_second_says_who_works(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        at_work("recast-agent update", lock),
        pytest.raises(BusyError, match=r"`recast-agent update` \(process"),
        at_work("recast-agent run", lock),
    ):
        pass
    with at_work("recast-agent run", lock):
        pass
