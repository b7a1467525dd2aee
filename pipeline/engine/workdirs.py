"""Scratch folders that never outlive their run for long, whatever ended it.

A run holds a kernel lock on its folder ``artifacts/work/<run id>.<pid>``. The lock is gone with
the process, so a folder without one is a leftover: whoever comes next ends the programs that
still run inside, unmounts, detaches loop devices, and removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import command
from pipeline.errors import RecastError
from pipeline.files import locked

MARK = "RECAST_WORK"
"""The environment variable by which programs of a run are known; its value is the folder."""

_KILL_SECONDS = 5.0
_UMOUNT_SECONDS = 30.0
_GUARD = ".lock"


@contextlib.contextmanager
def claim(folder: Path, run: str, say: Callable[[str], None]) -> Iterator[Path]:
    """A scratch folder for *run*, removed when the block ends; leftovers are removed before.

    Args:
        folder: ``artifacts/work``.
        run: the run's id.
        say: hears of each leftover, and of what could not be removed.
    """
    folder = folder.resolve()  # as the kernel's tables of mounts and devices name it
    mine = folder / f"{run}.{os.getpid()}"
    for leftover, handle in _leftovers(folder):
        with handle:
            say(f"removing what {leftover.name} left behind when it was killed")
            _remove(leftover, say)
    with _guarded(folder):  # nobody takes the new folder for a leftover before it is locked
        mine.mkdir(parents=True)
        handle = _Handle(mine)
        assert handle.take()
    before = os.environ.get(MARK)
    os.environ[MARK] = str(mine)
    try:
        yield mine
    finally:
        if before is None:
            os.environ.pop(MARK, None)
        else:
            os.environ[MARK] = before
        with handle:
            _remove(mine, say)


def clean(folder: Path, say: Callable[[str], None]) -> int:
    """Remove every leftover below *folder*, and say how many there were."""
    count = 0
    for leftover, handle in _leftovers(folder.resolve()):
        with handle:
            say(f"removing what {leftover.name} left behind when it was killed")
            _remove(leftover, say)
            count += 1
    return count


class _Handle:
    """A lock on a folder itself; as a context manager it ends with the block."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def take(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    with locked(folder / _GUARD, what="taking a scratch folder"):
        yield


def _leftovers(folder: Path) -> list[tuple[Path, _Handle]]:
    """Folders of dead runs, each with its lock taken."""
    found: list[tuple[Path, _Handle]] = []
    if not folder.is_dir():
        return found
    with _guarded(folder):
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not path.is_dir():
                continue
            handle = _Handle(path)
            if handle.take():
                found.append((path, handle))
            else:
                handle.__exit__()
    return found


def _remove(path: Path, say: Callable[[str], None]) -> None:
    """Remove a scratch folder and everything that hangs on it; never fails, but says so."""
    try:
        _end_programs(path)
        loops = _loops_below(path)
        _unmount(path, loops)
        for device in loops:
            command.run(["losetup", "--detach", device], timeout=_UMOUNT_SECONDS)
        if _mounts_below(path, frozenset()):
            # Removing now would empty what is mounted there.
            say(f"something below {path} is still mounted; it is left as it is")
            return
        shutil.rmtree(path)
    except (OSError, RecastError) as error:
        say(f"{path} could not be removed wholly: {error}")


def _end_programs(path: Path) -> None:
    """Kill what a dead run started and what has outlived it."""
    deadline = time.monotonic() + _KILL_SECONDS
    while (alive := _programs(path)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _programs(path: Path) -> list[int]:
    """Processes that carry the folder's mark, or whose root is inside it."""
    mark = f"{MARK}={path}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            root = Path(os.readlink(entry / "root"))
            inside = path in (root, *root.parents)
            if inside or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _mounts() -> list[tuple[str, Path]]:
    """Device and place of every mount, in the order in which they were made."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    pairs = [line.split(" ")[:2] for line in lines]
    return [(_unescaped(device), Path(_unescaped(place))) for device, place in pairs]


def _mounts_below(path: Path, devices: frozenset[str]) -> list[Path]:
    """Mounts at or below *path*, and those of *devices* anywhere; innermost first."""
    return [
        place
        for device, place in reversed(_mounts())
        if device in devices or path in (place, *place.parents)
    ]


def _unmount(path: Path, devices: list[str]) -> None:
    for place in _mounts_below(path, frozenset(devices)):
        try:
            command.run(["umount", str(place)], timeout=_UMOUNT_SECONDS)
        except RecastError:
            # Busy: take it out of sight now; the kernel lets go when its last user does.
            with contextlib.suppress(RecastError):
                command.run(["umount", "--lazy", str(place)], timeout=_UMOUNT_SECONDS)


def _loops_below(path: Path) -> list[str]:
    """Loop devices whose backing file is, or was, below *path*."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            backing = Path(entry.read_text().rstrip("\n").removesuffix(" (deleted)"))
            if path in backing.parents:
                found.append(f"/dev/{entry.parent.parent.name}")
    return found


def _unescaped(text: str) -> str:
    """A field of /proc/mounts, where blanks and the like are written as ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
