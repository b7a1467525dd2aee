"""Make files ready for a store: read once, verified against their digest, and compressed.

A compressed object is a row of zstandard frames, each of a MiB of the file: they are made side by
side, and the same bytes give the same object with one version of zstandard, however many cores a
machine has. Where machines fetch a part, a table of these segments is made beside it
(:mod:`pipeline.transfer.segments`).
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
from pipeline.transfer.segments import SEGMENT, digest_of, write_table

if TYPE_CHECKING:
    from pipeline.channels.meter import Meter
    from pipeline.command import Stop

LEVEL = 3
"""zstandard's level: faster than most links, and near to what slower ones reach."""

_THREADS = min(8, os.cpu_count() or 1)  # each has some 20 MiB of buffers
_WORTH = 0.97  # larger than this share of the bytes, and reading them back costs more than it saves
_SAMPLE = 16  # frames after which what does not get smaller is no longer tried


@dataclass(frozen=True)
class Piece:
    """Bytes of a local file that are to be stored as one object.

    Attributes:
        path: the file.
        offset, size: which of its bytes.
        digest: of these bytes; empty if that is not known beforehand.
        tabled: is a table of its segments wanted? There is none for a single one.
    """

    path: Path
    offset: int
    size: int
    digest: str = ""
    tabled: bool = False


@dataclass(frozen=True)
class Packed:
    """A piece, ready to be uploaded.

    Attributes:
        stored: what it will be in the store.
        source: the file with just these bytes.
        table: of its segments; empty if there is none.
    """

    stored: StoredObject
    source: Path
    table: bytes = b""


@dataclass(frozen=True)
class _Frame:
    """A frame as it may be stored: not compressed if there was no point in it.

    Attributes:
        data: its bytes, compressed.
        digest: of its own bytes; empty if nobody wants it.
    """

    data: bytes | None
    digest: bytes


@dataclass(frozen=True)
class _Made:
    """What became of the bytes of a piece.

    Attributes:
        digest: their SHA-256.
        stored: the compressed object; None if compression does not help.
        frames: for each frame its size there, and the digest of its own bytes.
    """

    digest: str
    stored: StoredObject | None
    frames: tuple[tuple[int, bytes], ...]

    def table(self, piece: Piece) -> bytes:
        """That of the segments, as they are stored."""
        if not piece.tabled or piece.size <= SEGMENT:
            return b""
        if self.stored is not None:
            return write_table(piece.size, self.frames, SEGMENT)
        sizes = (min(SEGMENT, piece.size - at) for at in range(0, piece.size, SEGMENT))
        plain = [(size, digest) for size, (_, digest) in zip(sizes, self.frames, strict=True)]
        return write_table(piece.size, plain, SEGMENT)


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
        made = _compress(piece, target, meter, stop, level)
    if piece.digest and made.digest != piece.digest:
        raise damaged(piece.path, made.digest, piece.digest)
    table = made.table(piece)
    if made.stored is not None:
        return Packed(made.stored, scratch, table)
    plain = StoredObject(digest=made.digest, size=piece.size)
    if whole:
        scratch.unlink()
        return Packed(plain, piece.path, table)
    with explained(scratch), scratch.open("wb") as target:
        for block in _blocks(piece, stop):
            target.write(block)
    return Packed(plain, scratch, table)


def damaged(path: Path, found: str, expected: str) -> BuildError:
    """The error for a local file that is not what the manifest says."""
    return BuildError(
        f"{path} is damaged: its digest is {found[:16]}…, its manifest says {expected[:16]}…",
        hint=f"Remove {path.parent} and build the image again: nothing of it was published.",
    )


def _compress(piece: Piece, target: IO[bytes], meter: Meter, stop: Stop, level: int) -> _Made:
    """Read *piece*, and write to *target* what it becomes, unless compression does not help."""
    raw, packed = hashlib.sha256(), hashlib.sha256()
    making: deque[Future[_Frame]] = deque()
    frames: list[tuple[int, bytes]] = []
    size = 0
    worth = True

    def keep(count: int) -> None:
        """Write what is done, in order, until *count* frames are left."""
        nonlocal size, worth
        while len(making) > count:
            frame = making.popleft().result()
            data = frame.data or b""
            packed.update(data)
            target.write(data)
            size += len(data)
            frames.append((len(data), frame.digest))
            if len(frames) == _SAMPLE:
                worth = size < _WORTH * _SAMPLE * SEGMENT

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for block in _blocks(piece, stop):
            if worth or piece.tabled:
                tried = level if worth else None
                making.append(pool.submit(_frame, block, tried, digested=piece.tabled))
            raw.update(block)
            meter.add(len(block))
            keep(_THREADS)
        keep(0)
    stored = None
    if worth and size < _WORTH * piece.size:
        stored = StoredObject(digest=packed.hexdigest(), size=size, encoding="zstd")
    return _Made(raw.hexdigest(), stored, tuple(frames))


def _frame(block: bytes, level: int | None, *, digested: bool) -> _Frame:
    import zstandard

    data = None if level is None else zstandard.ZstdCompressor(level=level).compress(block)
    return _Frame(data, digest_of(block) if digested else b"")


def _blocks(piece: Piece, stop: Stop) -> Iterator[bytes]:
    try:
        with piece.path.open("rb") as file:
            file.seek(piece.offset)
            left = piece.size
            while left:
                stop.check()
                block = file.read(min(SEGMENT, left))
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
