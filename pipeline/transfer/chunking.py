"""Make the index and the pack of a part; see :mod:`pipeline.transfer.chunks` for what they are."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.transfer.chunks import (
    BLOCK,
    FRAME_BLOCKS,
    MOST_CLASSES,
    Chunk,
    Frame,
    Place,
    cut,
    write_index,
)
from pipeline.transfer.packed import level_for, pack

if TYPE_CHECKING:
    from pipeline.command import Stop

_INDEX_LEVEL = 12
_JOBS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class MadeChunks:
    """What chunks came to.

    Attributes:
        index: a frame of zstandard's.
        size: bytes of the pack; 0 if there is none.
    """

    index: bytes
    size: int


def make_chunks(
    new: Path,
    bases: Sequence[Path],
    target: Path,
    *,
    level: int | None = None,
    jobs: int = _JOBS,
    heard: Callable[[int], None] | None = None,
    stop: Stop | None = None,
) -> MadeChunks:
    """Write to *target* the chunks of *new* that one of *bases* lacks.

    Args:
        new: the part.
        bases: the same part of earlier releases, the newest first.
        target: the file to write.
        level: zstandard's; by how much there is to pack if None.
        jobs: frames that are compressed at once.
        heard: hears of bytes of the pack that are done, uncompressed.
        stop: ends it when set.

    Raises:
        OSError: a file cannot be read, or *target* cannot be written.
        Interrupted: *stop* was set.
    """
    known = [{chunk.name for chunk in cut_file(base, stop)} for base in bases]
    places: list[Place] = []
    frames: list[_Filling] = []
    latest: dict[int, int] = {}  # the frame of each class that is being filled
    for chunk in cut_file(new, stop):
        lacking = [number for number, names in enumerate(known) if chunk.name not in names]
        if not chunk.name or not lacking:
            places.append(Place(chunk))
            continue
        kind = min(lacking[0], MOST_CLASSES - 1)
        number = latest.get(kind, -1)
        if number < 0 or frames[number].blocks + chunk.blocks > FRAME_BLOCKS:
            number = latest[kind] = len(frames)
            frames.append(_Filling(kind))
        places.append(Place(chunk, number, frames[number].blocks))
        frames[number].add(chunk)
    total = sum(frame.blocks for frame in frames) * BLOCK
    chosen = level if level is not None else level_for(total, new.stat().st_size)
    with new.open("rb") as file, target.open("wb") as output:
        made = _write_frames(file, frames, output, chosen, jobs, heard, stop)
    size = sum(frame.stored for frame in made)
    return MadeChunks(pack(write_index(new.stat().st_size, places, made), _INDEX_LEVEL), size)


def cut_file(path: Path, stop: Stop | None = None) -> Iterator[Chunk]:
    """The chunks of a file, in order.

    Raises:
        OSError: it cannot be read.
        Interrupted: *stop* was set.
    """
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            if stop is not None:
                stop.check()
            return os.pread(file.fileno(), size, offset)

        yield from cut(read, os.fstat(file.fileno()).st_size)


@dataclass
class _Filling:
    """A frame that is being filled."""

    kind: int
    blocks: int = 0
    chunks: list[Chunk] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.blocks += chunk.blocks

    def read(self, file: IO[bytes]) -> bytes:
        """Its bytes; zeros follow where the file ends within a block."""
        pieces = [
            os.pread(file.fileno(), each.blocks * BLOCK, each.block * BLOCK) for each in self.chunks
        ]
        return b"".join(pieces).ljust(self.blocks * BLOCK, b"\0")


def _write_frames(
    file: IO[bytes],
    frames: Sequence[_Filling],
    output: IO[bytes],
    level: int,
    jobs: int,
    heard: Callable[[int], None] | None,
    stop: Stop | None,
) -> list[Frame]:
    made: list[Frame] = []
    making: deque[tuple[_Filling, Future[bytes]]] = deque()

    def keep(count: int) -> None:
        while len(making) > count:
            filling, future = making.popleft()
            data = future.result()
            output.write(data)
            start = made[-1].start + made[-1].stored if made else 0
            made.append(Frame(filling.kind, filling.blocks, start, len(data)))
            if heard is not None:
                heard(filling.blocks * BLOCK)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for frame in frames:
            if stop is not None:
                stop.check()
            making.append((frame, pool.submit(pack, frame.read(file), level)))
            keep(2 * jobs)
        keep(0)
    return made
