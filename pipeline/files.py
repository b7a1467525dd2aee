"""Files that are never half-written, locks between processes, sizes for people."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from pipeline.errors import BusyError, DiskFullError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def write_atomically(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write *data* under a temporary name, fsync it, and rename it to *path*.

    Raises:
        DiskFullError: no space is left.
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, explained(path):
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def give_name(folder: Path, target: Path) -> None:
    """Move a finished *folder* to its final name *target*, whole or not at all.

    Raises:
        DiskFullError: no space is left, where the two are on different disks.
        OSError: there is a folder with something in it already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        with explained(target):
            shutil.copytree(folder, beside, symlinks=True)
        os.replace(beside, target)
        shutil.rmtree(folder)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn "no space left" below this block into a :class:`DiskFullError` that names *path*."""
    try:
        yield
    except OSError as error:
        # shutil.Error is a list of errors, as text.
        many = isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error)
        if many or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        raise


def data_ranges(handle: int) -> Iterator[tuple[int, int]]:
    """Where an open file holds data, as (start, end) in bytes; what lies between is zeros."""
    end, size = 0, os.fstat(handle).st_size
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, end


def disk_full(path: Path) -> DiskFullError:
    """The error for a full disk at *path*."""
    return DiskFullError(
        f"no space is left on the disk that holds {path}",
        hint="Free some space there, or move `artifacts/` to a larger disk; then run it again: "
        "finished work is kept.",
    )


def free_space(folder: Path) -> int:
    """Bytes free on the disk that holds *folder*, which need not exist yet."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what cannot end.

    Args:
        folder: where it will be written; need not exist yet.
        needed: bytes.

    Raises:
        DiskFullError: fewer than *needed* bytes are free there.
    """
    free = free_space(folder)
    if free < needed:
        raise DiskFullError(
            f"{format_size(needed)} are needed in {folder}, and {format_size(free)} are free",
            hint="Free some space there, or point RECAST_ARTIFACTS at a larger disk.",
        )


@contextlib.contextmanager
def locked(path: Path, *, what: str, wait: bool = True, holder: str = "") -> Iterator[None]:
    """Hold an exclusive lock on *path* (a file made for this) while the block runs.

    The kernel frees it when the process ends, however it ends.

    Args:
        path: the lock file; it stays.
        what: what is being done, for the other one's message.
        wait: wait for the other, or fail at once.
        holder: who we are, for the other one's message; the process if not given.

    Raises:
        BusyError: *wait* is false and another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                file.seek(0)
                other = file.read().strip() or "another process"
                raise BusyError(
                    f"{what}: {other} is at work on it",
                    hint="Wait until it has ended, then try again.",
                ) from None
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(holder or f"process {os.getpid()}")
        file.flush()
        yield


def parse_size(text: str | int) -> int:
    """Bytes from ``1GiB``, ``512M``, ``4096``; units are powers of 1024.

    Raises:
        ValueError: it is not a size.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 512MiB or 2GiB")
    return int(Fraction(match[1]) * _UNITS[match[2].upper()])


def format_size(size: int) -> str:
    """``437 MiB``, ``3.4 MiB``, ``12 KiB``, ``7 B``."""
    value = float(size)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value /= 1024
        unit = larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
