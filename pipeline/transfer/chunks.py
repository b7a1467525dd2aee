"""Chunks: a part as content-named pieces, for a machine that has something like it.

A file is cut at 4 KiB blocks, where the blocks' own digests say so: on the average after four, and
after sixteen at the latest. Files of a root begin on a block each, so a file that has moved is cut
as before, wherever it lies; what changed is found by comparing names, with no older release named
anywhere. Blocks of zeros are in no chunk.

A chunk is named by 8 bytes of the BLAKE2b of its blocks' digests (8 bytes of BLAKE2b each). That
is little, and enough for what a name is for: to find on a machine what is probably right. Whether
it is, the digest of each segment decides (:mod:`pipeline.transfer.segments`).

What a machine lacks it takes from the *pack* of the release, which holds the chunks that one of
the earlier releases around it did not have, or from the whole. Chunks of which the newest of
these releases that lacks them is the same form a class, and lie together in frames: who lacks one
lacks most of the others.
The index is a frame of zstandard's, that is::

    0   8   ``recastC1``
    8   8   bytes of the part
    16  ..  numbers (:mod:`pipeline.transfer.numbers`): of the chunks that are not zeros; of the
            frames of the pack, and for each frame, in order, its class, its blocks, and its bytes
            in the pack; then for each chunk of the part, in order, its blocks times 4 plus where
            it is (0: they are zeros, 1: only in the whole, 2: in the pack) and, for 2, its class:
            it is what comes next in the frames of this class
    ..  8   for each chunk that is not zeros, in order, its name

A frame lies where a reader that goes through the part first needs it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from pipeline.transfer.numbers import Numbers, put_number
from pipeline.transfer.packed import bound

if TYPE_CHECKING:
    from pipeline.transfer.deltas import ReadAt

BLOCK = 4096
NAME = 8
"""Bytes of a chunk's name."""

FRAME_BLOCKS = 256
"""Blocks of a frame of the pack, at most."""

MOST_CLASSES = 8
"""Classes of a pack, at most: a machine keeps a frame of each in memory."""

ZEROS, WHOLE, PACK = range(3)
_MAGIC = b"recastC1"
_HEAD = struct.Struct(">8sQ")
_MOST_BLOCKS = 16
_CUT = 3  # bits of a block's digest that are zero where a chunk ends
_PIECE = 1 << 20
_ZERO = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some blocks of a file.

    Attributes:
        block: the first one.
        blocks: how many.
        name: of its content; empty for zeros.
    """

    block: int
    blocks: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """Chunks in the pack.

    Attributes:
        kind: the class of its chunks.
        blocks: of all of them together.
        start, stored: which bytes of the pack: the first one, and how many.
    """

    kind: int
    blocks: int
    start: int
    stored: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is to be had.

    Attributes:
        chunk: the chunk.
        frame: the number of the frame of the pack that holds it; -1: it is in the whole alone.
        at: its first block there.
    """

    chunk: Chunk
    frame: int = -1
    at: int = 0


def cut(read: ReadAt, size: int) -> Iterator[Chunk]:
    """The chunks of a file, in order; they cover it.

    Args:
        read: reads the file.
        size: its bytes. A last block that is not whole counts as if zeros followed.
    """
    begin = block = zeros = 0
    names: list[bytes] = []
    for offset in range(0, size, _PIECE):
        data = read(offset, min(_PIECE, size - offset))
        for at in range(0, len(data), BLOCK):
            piece = data[at : at + BLOCK].ljust(BLOCK, b"\0")
            if piece == _ZERO:
                if names:
                    yield _chunk(begin, names)
                    names = []
                zeros += 1
            else:
                if zeros:
                    yield Chunk(block - zeros, zeros, b"")
                    zeros = 0
                if not names:
                    begin = block
                names.append(blake2b(piece, digest_size=NAME).digest())
                if not names[-1][0] & _CUT or len(names) == _MOST_BLOCKS:
                    yield _chunk(begin, names)
                    names = []
            block += 1
    if names:
        yield _chunk(begin, names)
    if zeros:
        yield Chunk(block - zeros, zeros, b"")


def _chunk(begin: int, names: Sequence[bytes]) -> Chunk:
    return Chunk(begin, len(names), blake2b(b"".join(names), digest_size=NAME).digest())


def write_index(size: int, places: Sequence[Place], frames: Sequence[Frame]) -> bytes:
    """The index of a part, not compressed.

    Args:
        size: bytes of the part.
        places: of its chunks, in order; what is in the pack of one class, in the pack's order.
        frames: of the pack, in order.
    """
    out = bytearray(_HEAD.pack(_MAGIC, size))
    put_number(out, sum(1 for place in places if place.chunk.name))
    put_number(out, len(frames))
    for frame in frames:
        for number in (frame.kind, frame.blocks, frame.stored):
            put_number(out, number)
    for place in places:
        where = ZEROS if not place.chunk.name else WHOLE if place.frame < 0 else PACK
        put_number(out, place.chunk.blocks << 2 | where)
        if where == PACK:
            put_number(out, frames[place.frame].kind)
    return bytes(out) + b"".join(place.chunk.name for place in places)


def read_index(data: bytes, size: int, stored: int) -> tuple[tuple[Place, ...], tuple[Frame, ...]]:
    """The chunks of a part in order, and the frames of its pack.

    Args:
        data: the index, decompressed.
        size: bytes of the part.
        stored: bytes of the pack; 0 if there is none.

    Raises:
        ValueError: it is no index, or that of another part, or leads beyond the pack; says why.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is cut")
    magic, told = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if told != size:
        raise ValueError(f"it is about {told} bytes, not {size}")
    numbers = Numbers(data, _HEAD.size)
    names = Numbers(data, len(data) - NAME * numbers.number(len(data) // NAME))
    frames = _read_frames(numbers, size, stored)
    taking = _Taking(frames)
    places: list[Place] = []
    block, blocks = 0, -(-size // BLOCK)
    while block < blocks:
        coded = numbers.number(blocks - block << 2 | 3)
        count, where = coded >> 2, coded & 3
        if not count or where > PACK or (where != ZEROS and count > _MOST_BLOCKS):
            raise ValueError(f"the chunk at block {block} is none")
        frame, at = -1, 0
        if where == PACK:
            frame, at = taking.take(numbers.number(MOST_CLASSES - 1), count)
        name = b"" if where == ZEROS else names.take(NAME)
        places.append(Place(Chunk(block, count, name), frame, at))
        block += count
    taking.require_all()
    if not names.ended or numbers.at != len(data) - NAME * sum(1 for p in places if p.chunk.name):
        raise ValueError("it goes on after its end")
    return tuple(places), frames


def _read_frames(numbers: Numbers, size: int, stored: int) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    start = 0
    for _ in range(numbers.number(size // BLOCK + 1)):
        kind, blocks = numbers.number(MOST_CLASSES - 1), numbers.number(FRAME_BLOCKS)
        count = numbers.number(bound(blocks * BLOCK))
        frames.append(Frame(kind, blocks, start, count))
        start += count
    if start != stored:
        raise ValueError(f"its frames have {start} bytes together, not {stored}")
    return tuple(frames)


class _Taking:
    """Which frame of a class comes next, and how much of it is taken."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._open: dict[int, list[int]] = {}
        for number in range(len(frames) - 1, -1, -1):
            self._open.setdefault(frames[number].kind, []).append(number)
        self._taken = [0] * len(frames)

    def take(self, kind: int, blocks: int) -> tuple[int, int]:
        """The frame that a chunk of *blocks* is in, and its first block there."""
        waiting = self._open.get(kind)
        if not waiting:
            raise ValueError("a chunk is in no frame")
        number = waiting[-1]
        at = self._taken[number]
        self._taken[number] += blocks
        left = self._frames[number].blocks - self._taken[number]
        if left < 0:
            raise ValueError("a chunk leads beyond its frame")
        if not left:
            waiting.pop()
        return number, at

    def require_all(self) -> None:
        """Refuse frames that hold what no chunk names."""
        if any(self._open.values()):
            raise ValueError("a frame holds more than its chunks")
