"""Make files ready for a store: read once, verified against their digest, and compressed.

A compressed object is a row of zstandard frames, each of 8 MiB of the file: they are made side by
side, and the same bytes give the same object with one version of zstandard, however many cores a
machine has.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.errors import BuildError
from pipeline.files import explained
from pipeline.models.pointer import StoredObject

if TYPE_CHECKING:
    from pipeline.channels.meter import Meter
    from pipeline.command import Stop

LEVEL = 3
"""zstandard's level: faster than most links, and near to what slower ones reach."""

FRAME = 8 << 20
"""Bytes of a file that become one frame."""

_THREADS = min(8, os.cpu_count() or 1)  # each has some 20 MiB of buffers
_WORTH = 0.97  # larger than this share of the bytes, and reading them back costs more than it saves
_SAMPLE = 2  # frames after which what does not get smaller is no longer tried


@dataclass(frozen=True)
class Piece:
    """Bytes of a local file that are to be stored as one object.

    Attributes:
        path: the file.
        offset, size: which of its bytes.
        digest: of these bytes; empty if that is not known beforehand.
    """

    path: Path
    offset: int
    size: int
    digest: str = ""


@dataclass(frozen=True)
class Packed:
    """A piece, ready to be uploaded.

    Attributes:
        stored: what it will be in the store.
        source: the file with just these bytes.
    """

    stored: StoredObject
    source: Path


def pack(piece: Piece, scratch: Path, meter: Meter, stop: Stop, level: int = LEVEL) -> Packed:
    """Verify *piece*, and compress it where that helps.

    Args:
        piece: what is to be stored.
        scratch: a file to make; it need not stay if the piece is a file that goes as it is.
        meter: hears of the bytes that were read.
        stop: ends it when set.
        level: zstandard's.

    Raises:
        BuildError: the file is damaged or gone; names it.
        DiskFullError: no space is left for *scratch*.
        Interrupted: *stop* was set.
    """
    whole = piece.offset == 0 and piece.size == _size(piece.path)
    with explained(scratch), scratch.open("wb") as target:
        raw, stored = _compress(piece, target, meter, stop, level)
    if piece.digest and raw != piece.digest:
        raise damaged(piece.path, raw, piece.digest)
    if stored is not None:
        return Packed(stored, scratch)
    plain = StoredObject(digest=raw, size=piece.size)
    if whole:
        scratch.unlink()
        return Packed(plain, piece.path)
    with explained(scratch), scratch.open("wb") as target:
        for block in _blocks(piece, stop):
            target.write(block)
    return Packed(plain, scratch)


def damaged(path: Path, found: str, expected: str) -> BuildError:
    """The error for a local file that is not what the manifest says."""
    return BuildError(
        f"{path} is damaged: its digest is {found[:16]}…, its manifest says {expected[:16]}…",
        hint=f"Remove {path.parent} and build the image again: nothing of it was published.",
    )


def _compress(
    piece: Piece, target: IO[bytes], meter: Meter, stop: Stop, level: int
) -> tuple[str, StoredObject | None]:
    """The digest of the bytes, and what they became; None if compression does not help."""
    raw, packed = hashlib.sha256(), hashlib.sha256()
    made: deque[Future[bytes]] = deque()
    size = frames = 0
    worth = True

    def keep(count: int) -> None:
        """Write what is done, in order, until *count* frames are left."""
        nonlocal size, frames, worth
        while len(made) > count:
            frame = made.popleft().result()
            packed.update(frame)
            target.write(frame)
            size += len(frame)
            frames += 1
            if frames == _SAMPLE:
                worth = size < _WORTH * _SAMPLE * FRAME

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for block in _blocks(piece, stop):
            if worth:
                made.append(pool.submit(_frame, block, level))
            raw.update(block)
            meter.add(len(block))
            keep(_THREADS)
        keep(0)
    if not worth or size >= _WORTH * piece.size:
        return raw.hexdigest(), None
    return raw.hexdigest(), StoredObject(digest=packed.hexdigest(), size=size, encoding="zstd")


def _frame(block: bytes, level: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress(block)


def _blocks(piece: Piece, stop: Stop) -> Iterator[bytes]:
    try:
        with piece.path.open("rb") as file:
            file.seek(piece.offset)
            left = piece.size
            while left:
                stop.check()
                block = file.read(min(FRAME, left))
                if not block:
                    raise _cut(piece.path)
                left -= len(block)
                yield block
            if piece.digest and file.read(1):
                raise _cut(piece.path)
    except OSError as error:
        raise BuildError(
            f"{piece.path} cannot be read: {error.strerror}",
            hint=f"Remove {piece.path.parent} and build the image again.",
        ) from error


def _cut(path: Path) -> BuildError:
    return BuildError(
        f"{path} is damaged: its size is {_size(path)} bytes, its manifest says otherwise",
        hint=f"Remove {path.parent} and build the image again: nothing of it was published.",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
