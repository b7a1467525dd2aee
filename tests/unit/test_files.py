"""Nothing half-written has a final name, one at a time means one, and sizes read both ways."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.errors import BusyError, DiskFullError, HostError

HOLD = """
import sys, time
from pathlib import Path
from pipeline.files import locked
with locked(Path(sys.argv[1]), what="edge-base"):
    print("held", flush=True)
    time.sleep(300)
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_file_is_written_whole_with_its_mode_and_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key.json"
    files.write_atomically(path, "grün\n", mode=0o600)
    assert path.read_bytes() == "grün\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files.write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["key.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.json"
    files.write_atomically(path, "old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"records\.json"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["records.json"]


def test_ctrl_c_in_the_middle_of_a_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "manifest.json", "x")
    assert os.listdir(tmp_path) == []


def test_only_a_full_disk_is_explained_as_one(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), files.explained(tmp_path):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(PermissionError), files.explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_require_space_refuses_before_it_starts(tmp_path: Path) -> None:
    files.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskFullError, match=r"1024 TiB are needed in .*not/yet") as caught:
        files.require_space(tmp_path / "not" / "yet", 1 << 50)
    assert "RECAST_ARTIFACTS" in caught.value.hint
    assert isinstance(caught.value, HostError), "its exit code is that of the host's class"


def test_a_relative_folder_that_is_not_there_yet_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.free_space(Path("not/yet")) > 0


def test_a_lock_held_by_another_process_names_it(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "edge-base"
    other = holder(lock)
    try:
        with (
            pytest.raises(BusyError, match=rf"edge-base: process {other.pid} is at work"),
            files.locked(lock, what="edge-base", wait=False),
        ):
            pytest.fail("two hold one lock")
    finally:
        finish(other)


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    finish(holder(lock))
    with files.locked(lock, what="edge-base", wait=False):
        pass


def test_waiting_ends_when_the_other_does(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    other = holder(lock)
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    try:
        time.sleep(0.5)
        assert waiting.poll() is None
        other.send_signal(signal.SIGKILL)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "held\n"
    finally:
        finish(other)
        finish(waiting)


def test_a_lock_can_be_taken_again_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(RuntimeError), files.locked(lock, what="x"):
        raise RuntimeError
    with files.locked(lock, what="x", wait=False):
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1KiB", 1024),
        ("512M", 512 << 20),
        ("1.5 GiB", 3 << 29),
        (" 2gib ", 2 << 30),
        ("3TB", 3 << 40),
        ("7B", 7),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text: str, size: int) -> None:
    assert files.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 XiB", "one", "1,5GiB", "0x10", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        files.parse_size(text)


@given(st.integers(min_value=0, max_value=(1 << 50)))
def test_a_printed_size_is_read_back_within_its_precision(size: int) -> None:
    assert abs(files.parse_size(files.format_size(size)) - size) <= size * 0.051


@given(st.integers(min_value=0), st.sampled_from(["", "KiB", "MiB", "GiB", "TiB"]))
def test_whole_sizes_are_exact(count: int, unit: str) -> None:
    factor = {"": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
    assert files.parse_size(f"{count}{unit}") == count << factor


@given(st.integers(min_value=0, max_value=1 << 60), st.integers(min_value=0, max_value=1 << 60))
def test_a_larger_size_never_prints_as_a_smaller_one(one: int, two: int) -> None:
    low, high = sorted((one, two))
    assert files.parse_size(files.format_size(low)) <= files.parse_size(files.format_size(high))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (7, "7 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (437 << 20, "437 MiB"),
        (int(3.4 * (1 << 20)), "3.4 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert files.format_size(size) == text
