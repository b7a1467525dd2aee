"""What a disk is made of: runs that are exactly other parts of its release, and the rest.

A disk holds its root, its verity tree and its UKI once more, and is mostly zeros. Whoever
has those parts needs a few hundred KiB besides to have the disk, byte for byte.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.command import Stop
from pipeline.files import data_ranges

_SECTOR = 512  # where a file can begin in a FAT; a partition begins on a multiple of it
_HEAD = 4096
_READ = 1 << 20
_BLOCK = 64 << 10  # zeros are told from data in steps of this, whatever holes the file has
_GAP = 4 << 20  # zeros that are rather stored, compressed to nothing, than have a run of their own


@dataclass(frozen=True)
class Run:
    """Some bytes of a disk; what lies between runs is zero.

    Attributes:
        offset, size: where, in bytes.
        part: the role of the part whose whole content it is; empty for bytes of the disk alone.
    """

    offset: int
    size: int
    part: str = ""


def find_runs(disk: Path, parts: Mapping[str, Path], stop: Stop | None = None) -> list[Run]:
    """What *disk* is made of, in order and without overlaps.

    Each part is looked for after the one before it, and is left to the disk's own bytes where it
    does not lie there in one piece.

    Args:
        disk: the disk image.
        parts: files by role, in the order in which the disk has them.
        stop: ends it when set.

    Raises:
        OSError: a file cannot be read.
        Interrupted: *stop* was set.
    """
    with disk.open("rb") as file:
        size = disk.stat().st_size
        if not size:
            return []
        found: list[Run] = []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            at = 0
            for role, path in parts.items():
                run = _locate(view, file, at, role, path, stop)
                if run is not None:
                    found.append(run)
                    at = run.offset + run.size
        at = 0
        runs: list[Run] = []
        for run in (*found, Run(size, 0)):
            runs += _literals(file, at, run.offset, stop)
            at = run.offset + run.size
            runs += [run] if run.size else []
        return runs


def _locate(
    view: mmap.mmap, file: IO[bytes], start: int, role: str, path: Path, stop: Stop | None
) -> Run | None:
    """Where the whole content of *path* begins, at or after *start*."""
    size = path.stat().st_size
    if not size:
        return None
    with path.open("rb") as part:
        head = part.read(_HEAD)
        for begin, end in data_ranges(file.fileno()):
            at = max(begin, start)
            while (at := view.find(head, at, min(end + len(head), len(view)))) >= 0:
                if at % _SECTOR == 0 and _is_there(view, at, part, size, stop):
                    return Run(at, size, role)
                at += 1
    return None


def _is_there(view: mmap.mmap, at: int, part: IO[bytes], size: int, stop: Stop | None) -> bool:
    if at + size > len(view):
        return False
    part.seek(0)
    while piece := part.read(_READ):
        if stop is not None:
            stop.check()
        if view[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return True


def _literals(file: IO[bytes], start: int, end: int, stop: Stop | None) -> Iterator[Run]:
    """Where the disk has bytes of its own between *start* and *end*."""
    begin = last = -1
    for at in _blocks(file, start, end, stop):
        if begin >= 0 and at - last > _GAP:
            yield Run(begin, last - begin)
            begin = -1
        begin = at if begin < 0 else begin
        last = min((at // _BLOCK + 1) * _BLOCK, end)
    if begin >= 0:
        yield Run(begin, last - begin)


def _blocks(file: IO[bytes], start: int, end: int, stop: Stop | None) -> Iterator[int]:
    """Where the blocks begin that are not all zeros; the first and last may be cut."""
    next_free = start
    for begin, stop_at in data_ranges(file.fileno()):
        at = max(begin // _BLOCK * _BLOCK, next_free)
        while at < min(stop_at, end):
            if stop is not None:
                stop.check()
            upto = min((at // _BLOCK + 1) * _BLOCK, end)
            # Not through the buffer: looking for holes moves the file's place behind its back.
            if os.pread(file.fileno(), upto - at, at).strip(b"\0"):
                yield at
            at = next_free = upto
