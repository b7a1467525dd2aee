"""A delta: a file as what is new in it, and where the rest lies in another one.

Each segment of the new file (:mod:`pipeline.transfer.segments`) is put together on its own, so
that a delta goes on after a cut wherever it stood, and needs some MiB of memory for any file. A
segment's 4 KiB blocks are zeros, or lie as they are somewhere in the old file (``old``), or are
like bytes there (``patched``: what comes is the difference, in numbers of 32 bits, the lowest byte
first, modulo 2^32; zeros fill up the last one), or are ``literal``. What comes is compressed, with
pieces of the old file, and of the new one as far as it is complete, as what it may repeat
(zstandard's raw-content dictionary).

Why so: unchanged files are whole blocks that have moved, which costs a few bytes for as long a run
as you like. Tables of addresses, of an executable or of the filesystem itself, change in each
entry by the same number: their difference is next to nothing, where a dictionary would find no
match (C. Percival, *Naive differences of executable code*, 2003). Everything else is text or code
that resembles what was there, wherever that is; pieces of the new file stand in for what is new
more than once.

The index tells all but the bytes that come. It is a frame of zstandard's, that is::

    0   8   ``recastD1``
    8   4   bytes of a segment
    12  8   bytes of the new file
    20  8   bytes of the old file
    28  ..  for each segment, in numbers (:mod:`pipeline.transfer.numbers`): bytes of its frame in
            the object; the number of its runs; for each run its blocks times 4 plus its kind
            (0 literal, 1 zeros, 2 old, 3 patched), and for ``old`` how far its first block in the
            old file lies from the block after the last such run (signed), for ``patched`` how far
            its first byte there lies from the byte after the last such run (signed); then, if a
            frame comes, the number of its pieces, and for each piece its units of 16 KiB times 2
            plus its source (0 the old file, 1 the new one) and how far its first unit lies from
            the unit after the last piece of that source (signed)

The object is the frames, one after the other: each holds the bytes of the segment's literal runs,
in order, and then those of its patched runs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.transfer.numbers import Numbers, put_number, put_signed
from pipeline.transfer.packed import bound, unpack
from pipeline.transfer.segments import SEGMENT

BLOCK = 4096
UNIT = 16 << 10
MOST_PREFIX = 4 << 20
"""Bytes of all pieces of a segment together, at most."""

LITERAL, ZEROS, OLD, PATCHED = range(4)
_MAGIC = b"recastD1"
_HEAD = struct.Struct(">8sIQQ")

ReadAt = Callable[[int, int], bytes]
"""Gives exactly so many bytes, from an offset on."""


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of a segment that come from one place.

    Attributes:
        kind: LITERAL, ZEROS, OLD or PATCHED.
        blocks: how many.
        source: for OLD the first block in the old file, for PATCHED the first byte there.
    """

    kind: int
    blocks: int
    source: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What the bytes that come may repeat.

    Attributes:
        new: of the new file, not the old one.
        unit: the first one.
        units: how many.
    """

    new: bool
    unit: int
    units: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to put a segment together.

    Attributes:
        size: bytes of the segment.
        start, stored: which bytes of the object are its frame.
        runs: its blocks, in order; they cover it.
        pieces: what its frame was compressed with, in order.
    """

    size: int
    start: int
    stored: int
    runs: tuple[Run, ...]
    pieces: tuple[Piece, ...] = ()

    def places(self) -> tuple[tuple[Run, int, int], ...]:
        """Each run with the first byte of the segment that it makes, and how many."""
        found = []
        at = 0
        for run in self.runs:
            count = min(run.blocks * BLOCK, self.size - at)
            found.append((run, at, count))
            at += count
        return tuple(found)

    @property
    def coming(self) -> int:
        """Bytes that its frame holds."""
        return sum(count for run, _, count in self.places() if run.kind in (LITERAL, PATCHED))

    @property
    def reused(self) -> int:
        """Bytes that are taken from the old file as they are."""
        return sum(count for run, _, count in self.places() if run.kind == OLD)


def write_index(
    old_size: int, size: int, recipes: Sequence[Recipe], segment: int = SEGMENT
) -> bytes:
    """The index of a delta, not compressed.

    Args:
        old_size, size: bytes of the files.
        recipes: how each segment of the new file is made, in order.
        segment: bytes of a segment.
    """
    out = bytearray(_HEAD.pack(_MAGIC, segment, size, old_size))
    after = {OLD: 0, PATCHED: 0}
    after_piece = [0, 0]
    for recipe in recipes:
        put_number(out, recipe.stored)
        put_number(out, len(recipe.runs))
        for run, _, count in recipe.places():
            put_number(out, run.blocks << 2 | run.kind)
            if run.kind in after:
                put_signed(out, run.source - after[run.kind])
                after[run.kind] = run.source + (run.blocks if run.kind == OLD else count)
        if not recipe.stored:
            continue
        put_number(out, len(recipe.pieces))
        for piece in recipe.pieces:
            put_number(out, piece.units << 1 | piece.new)
            put_signed(out, piece.unit - after_piece[piece.new])
            after_piece[piece.new] = piece.unit + piece.units
    return bytes(out)


def read_index(data: bytes, size: int, stored: int, segment: int) -> tuple[int, tuple[Recipe, ...]]:
    """The bytes of the old file, and how each segment of the new one is made, in order.

    Args:
        data: the index, decompressed.
        size: bytes of the new file.
        stored: bytes of the object.
        segment: bytes of a segment.

    Raises:
        ValueError: it is no index, or that of another file, or leads beyond one; says why.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is cut")
    magic, length, told, old_size = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if told != size or min(length, size) != min(segment, size):  # of one segment its own size is
        raise ValueError(f"it makes {told} bytes in segments of {length}, not {size} of {segment}")
    reader = _Reader(Numbers(data, _HEAD.size), old_size)
    recipes: list[Recipe] = []
    start = 0
    for offset in range(0, size, segment):
        recipe = reader.recipe(offset, min(segment, size - offset), start)
        start += recipe.stored
        recipes.append(recipe)
    if not reader.numbers.ended:
        raise ValueError("it goes on after its end")
    if start != stored:
        raise ValueError(f"its frames have {start} bytes together, not {stored}")
    return old_size, tuple(recipes)


class _Reader:
    """Reads recipes; each number is held against what it may be."""

    def __init__(self, numbers: Numbers, old_size: int) -> None:
        self.numbers = numbers
        self._old_size = old_size
        self._after = {OLD: 0, PATCHED: 0}
        self._after_piece = [0, 0]

    def recipe(self, offset: int, size: int, start: int) -> Recipe:
        blocks = -(-size // BLOCK)
        stored = self.numbers.number(bound(size))
        runs: list[Run] = []
        at = 0
        for _ in range(self.numbers.number(blocks)):
            run = self._run(blocks - at, size - at * BLOCK)
            at += run.blocks
            runs.append(run)
        if at != blocks:
            raise ValueError(f"the segment at {offset} is not covered by its runs")
        pieces: tuple[Piece, ...] = ()
        if stored:
            count = self.numbers.number(MOST_PREFIX // UNIT)
            pieces = tuple(self._piece(offset) for _ in range(count))
        if sum(piece.units for piece in pieces) * UNIT > MOST_PREFIX:
            raise ValueError(f"the segment at {offset} asks for too much memory")
        recipe = Recipe(size, start, stored, tuple(runs), pieces)
        if bool(recipe.coming) != bool(stored):
            raise ValueError(f"the segment at {offset} has a frame for nothing, or none")
        return recipe

    def _run(self, blocks_left: int, bytes_left: int) -> Run:
        coded = self.numbers.number(blocks_left << 2 | 3)
        blocks, kind = coded >> 2, coded & 3
        if not blocks:
            raise ValueError("a run has no blocks")
        if kind not in self._after:
            return Run(kind, blocks)
        source = self._after[kind] + self.numbers.signed()
        count = min(blocks * BLOCK, bytes_left)
        begin = source * BLOCK if kind == OLD else source
        if source < 0 or begin + count > self._old_size:
            raise ValueError("a run leads beyond the old file")
        self._after[kind] = source + (blocks if kind == OLD else count)
        return Run(kind, blocks, source)

    def _piece(self, offset: int) -> Piece:
        coded = self.numbers.number(MOST_PREFIX // UNIT << 1 | 1)
        units, new = coded >> 1, bool(coded & 1)
        unit = self._after_piece[new] + self.numbers.signed()
        end = (unit + units) * UNIT
        if unit < 0 or not units or end > (offset if new else self._old_size):
            raise ValueError("a piece leads beyond its file")
        self._after_piece[new] = unit + units
        return Piece(new, unit, units)


def read_prefix(pieces: Sequence[Piece], old: ReadAt, new: ReadAt) -> bytes:
    """The bytes of *pieces*, one after the other."""
    return b"".join(
        (new if piece.new else old)(piece.unit * UNIT, piece.units * UNIT) for piece in pieces
    )


def put_together(recipe: Recipe, frame: bytes, old: ReadAt, new: ReadAt) -> bytes:
    """A segment; nobody has held it against its digest yet.

    Args:
        recipe: how.
        frame: its bytes of the object, which may be anything.
        old: reads the old file.
        new: reads the new file, as far as the segments before this one.

    Raises:
        WrongError: *frame* is not what the recipe needs.
    """
    came = b""
    if recipe.stored:
        came = unpack(frame, recipe.coming, read_prefix(recipe.pieces, old, new))
    places = recipe.places()
    literal, patched = 0, sum(count for run, _, count in places if run.kind == LITERAL)
    parts: list[bytes] = []
    for run, _, count in places:
        if run.kind == OLD:
            parts.append(old(run.source * BLOCK, count))
        elif run.kind == ZEROS:
            parts.append(bytes(count))
        elif run.kind == LITERAL:
            parts.append(came[literal : literal + count])
            literal += count
        else:
            parts.append(_added(came[patched : patched + count], old(run.source, count)))
            patched += count
    return b"".join(parts)


def _added(left: bytes, right: bytes) -> bytes:
    """The sum of two texts of one length, as numbers of 32 bits each, modulo 2^32.

    All numbers at once, as one large one: the highest bit of each is kept out of the addition,
    so that nothing is carried into the next one (H. S. Warren, *Hacker's Delight*, 2-18).
    """
    numbers = -(-len(left) // 4)
    low = int.from_bytes(b"\xff\xff\xff\x7f" * numbers, "little")
    one, other = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    total = ((one & low) + (other & low)) ^ ((one ^ other) & ~low)
    return total.to_bytes(4 * numbers, "little")[: len(left)]
