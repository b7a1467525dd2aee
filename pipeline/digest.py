"""SHA-256 over bytes, files, data and folders: the names that everything hangs on."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pipeline.files import data_ranges

_READ = 1 << 20


def of_bytes(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of *data*."""
    return hashlib.sha256(data).hexdigest()


def of_data(data: object) -> str:
    """Digest of JSON-able *data*; equal data gives equal digests, whatever its key order."""
    return of_bytes(canonical(data))


def canonical(data: object) -> bytes:
    """*data* as JSON with sorted keys and no spare white space, in UTF-8."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def of_file(path: Path, hear: Callable[[int], None] | None = None) -> str:
    """Digest of the content of one file.

    Args:
        path: the file.
        hear: is told of bytes that were read, holes included; ends it by raising.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if hear is not None or info.st_blocks * 512 < info.st_size:
            return _of_sparse(file, info.st_size, hear or _to_nobody)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_nobody(_count: int) -> None:
    """Nobody wants to hear."""


def _of_sparse(file: IO[bytes], size: int, hear: Callable[[int], None]) -> str:
    """Hash holes without reading them: reading would fill the memory with pages of zeros."""
    hasher = hashlib.sha256()
    zeros, at = bytes(_READ), 0
    for start, end in (*data_ranges(file.fileno()), (size, size)):
        for hole in range(at, start, _READ):
            hasher.update(zeros[: start - hole])
            hear(min(_READ, start - hole))
        file.seek(start)
        at = start
        while at < end and (block := file.read(min(_READ, end - at))):
            hasher.update(block)
            hear(len(block))
            at += len(block)
    return hasher.hexdigest()


def of_folder(folder: Path, *, ignore: frozenset[str] = frozenset({"__pycache__"})) -> str:
    """Digest of everything below *folder*: names, kinds, executable bits, contents, link targets.

    Times and owners do not count: a fresh clone has the digest of the old one.

    Raises:
        OSError: something in it cannot be read.
    """
    lines: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ignore)
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            if name.endswith(".pyc"):
                continue
            path = here / name
            relative = path.relative_to(folder).as_posix()
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                lines.append(f"l {relative} {os.readlink(path)}")
            else:
                executable = "x" if info.st_mode & 0o100 else "-"
                lines.append(f"f{executable} {relative} {of_file(path)}")
    return of_bytes("\n".join(lines).encode())
