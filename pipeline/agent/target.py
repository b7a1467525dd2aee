"""The disk that an image is to be put on: is it one, is it free, and what would be lost on it?"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.agent import gpt
from pipeline.agent.blocks import FileDisk
from pipeline.errors import BusyError, HostError, RecastError, RefusedError, UsageError
from pipeline.files import format_size

EDGE = 1 << 20
"""Bytes at both ends of a disk: every partition table, file system and RAID has its mark there."""

_MAX_NAMED = 8
# udev looks at a disk that has just come, and a mount ends a moment after it was asked to.
_PATIENCE = 5.0
_POLL = 0.1


@contextlib.contextmanager
def open_target(
    path: Path, needed: int, *, overwrite: bool, root: Path = Path("/")
) -> Iterator[FileDisk]:
    """A whole disk, or a file that stands for one, for us alone while the block runs.

    Nothing is written to it here.

    Args:
        path: of the device or file.
        needed: bytes that it must have.
        overwrite: may what is on it be lost?
        root: where ``proc`` and ``sys`` are.

    Raises:
        UsageError: it is no disk.
        BusyError: it is mounted, or used otherwise.
        HostError: it is too small, read-only, or cannot be read.
        RefusedError: there is something on it, and *overwrite* is false.
    """
    place = path.resolve()
    try:
        facts = place.stat()
    except OSError as error:
        raise UsageError(
            f"there is no disk {path}: {error.strerror or error}",
            hint="`lsblk` lists this machine's disks; `truncate --size 8G FILE` makes a file for "
            "a virtual one.",
        ) from error
    kernel: Path | None = None
    if stat.S_ISBLK(facts.st_mode):
        number = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
        kernel = (root / "sys/dev/block" / number).resolve()
        require_free_disk(path, number, kernel, root / "proc")
    elif not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{path} is neither a disk nor a file", hint="`lsblk` lists the disks.")
    with _claimed(place, exclusive=kernel is not None), FileDisk(place) as disk:
        if disk.size < needed:
            raise HostError(
                f"{path} has {format_size(disk.size)}, and the image has {format_size(needed)}",
                hint="Nothing was written. Take a larger disk; twice the image and some room for "
                "data is the least for a machine that updates itself.",
            )
        if not overwrite and (there := describe_contents(disk, kernel)):
            raise RefusedError(
                f"{path} is not empty: {there}",
                hint="Nothing was written. `--yes` overwrites all that is on it.",
            )
        yield disk


def require_free_disk(path: Path, number: str, kernel: Path, proc: Path) -> None:
    """Refuse a block device that is part of a disk, that cannot be written, or is in use.

    Args:
        path: as the person named it.
        number: its ``major:minor``.
        kernel: its folder in ``/sys``.
        proc: ``/proc``.

    Raises:
        UsageError, HostError, BusyError: as :func:`open_target`.
    """
    if (kernel / "partition").exists():
        raise UsageError(
            f"{path} is a partition, and an image is a whole disk",
            hint=f"Its disk is /dev/{kernel.parent.name}.",
        )
    if _text(kernel / "ro").strip() == "1":
        raise HostError(f"{path} cannot be written: the kernel holds it as read-only")
    parts = {number: path.name}
    for partition in _partitions(kernel):
        parts[_text(partition / "dev").strip()] = partition.name
    for line in _text(proc / "self/mountinfo").splitlines():
        words = line.split(" ")
        if len(words) > 4 and words[2] in parts:
            raise _busy(path, f"{parts[words[2]]} is mounted at {words[4]}")
    swapped = {Path(line.split(" ")[0]).name for line in _text(proc / "swaps").splitlines()[1:]}
    for name in parts.values():
        if name in swapped:
            raise _busy(path, f"{name} is used for swap")
    for each in (kernel, *_partitions(kernel)):
        with contextlib.suppress(OSError):
            for holder in sorted((each / "holders").iterdir()):
                raise _busy(path, f"{each.name} is used by {_name(holder)}")


def describe_contents(disk: FileDisk, kernel: Path | None = None) -> str:
    """What a disk holds, in words; empty if both its ends are."""
    ends = (0, min(EDGE, disk.size)), (max(0, disk.size - EDGE), min(EDGE, disk.size))
    if not any(any(disk.read(at, size)) for at, size in ends):
        return ""
    found: list[str] = []
    if kernel is not None:
        found = [_described(partition) for partition in _partitions(kernel)]
    if not found:
        with contextlib.suppress(RecastError):
            found = [
                f"{each.label or f'partition {each.number}'} ({format_size(each.size)})"
                for each in gpt.read(disk).partitions
            ]
    if not found:
        return "it holds something that is no partition table"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return f"it holds {', '.join(found[:_MAX_NAMED])}{more}"


@contextlib.contextmanager
def _claimed(place: Path, *, exclusive: bool) -> Iterator[None]:
    """Keep others away: the kernel's users by O_EXCL, udev and other installations by a lock."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            handle = _claim(place, os.O_EXCL if exclusive else 0)
            break
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EAGAIN):
                hint = "Run it as root." if isinstance(error, PermissionError) else ""
                raise HostError(
                    f"{place} cannot be written: {error.strerror or error}", hint=hint
                ) from error
            if time.monotonic() >= deadline:
                raise _busy(place, "another program uses it") from error
        time.sleep(_POLL)
    try:
        yield
    finally:
        os.close(handle)


def _claim(place: Path, flags: int) -> int:
    handle = os.open(place, os.O_RDWR | os.O_CLOEXEC | flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _busy(path: Path, why: str) -> BusyError:
    return BusyError(
        f"{path} is in use: {why}",
        hint="Nothing was written. Free it first, or boot from another medium.",
    )


def _partitions(kernel: Path) -> list[Path]:
    try:
        found = [each for each in kernel.iterdir() if (each / "partition").exists()]
    except OSError:
        return []
    return sorted(found, key=lambda each: (len(each.name), each.name))


def _described(partition: Path) -> str:
    told = dict(
        line.split("=", 1) for line in _text(partition / "uevent").splitlines() if "=" in line
    )
    sectors = _text(partition / "size").strip()
    size = format_size(int(sectors) * 512) if sectors.isdecimal() else ""
    return f"{partition.name} ({', '.join(each for each in (told.get('PARTNAME'), size) if each)})"


def _name(holder: Path) -> str:
    return _text(holder / "dm/name").strip() or holder.name


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
