"""Make a delta; see :mod:`pipeline.transfer.deltas` for what it is.

Blocks of the new file that lie anywhere in the old one are found by their digests. For the rest,
sampled windows (:mod:`pipeline.transfer.similar`) tell what it resembles: which bytes of the old
file lie where a block's own bytes would be expected (candidates for ``patched``), and which pieces
of old and new it can be compressed with. Whether a block is patched is decided by compressing it
both ways, with what is like it alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.transfer import deltas, similar
from pipeline.transfer.deltas import (
    BLOCK,
    LITERAL,
    MOST_PREFIX,
    OLD,
    PATCHED,
    UNIT,
    ZEROS,
    Piece,
    Recipe,
    Run,
)
from pipeline.transfer.packed import THOROUGH, level_for, pack
from pipeline.transfer.segments import SEGMENT

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.transfer.similar import Bytes, Numbers

INDEX_LEVEL = 19
_MOST_AGAIN = 0.7  # share of a file that comes, up to which some of it is packed once more
_WORTH_AGAIN = (0.06, 0.9)  # a frame's share of its segment, at least; of what comes of it, at most
_ALIKE = 0.3  # share of a block's bytes that must be those of the old one to be patched
_TRIAL_LEVEL = 3
_TRIAL_ROOM = 4096  # bytes around what is like a block that it is compressed with on trial
_IN_FAVOUR = 1.2  # a patched block may be larger by this on trial: it makes none of the others so
_PREFIX = 16  # bytes of pieces for each byte that comes, at most: all of them must be looked at
_LEAST_PREFIX = 8  # units
_FEW_PLACES = 4  # a window that lies at more does not say which bytes a block's own ones were
_NEAR = 2  # blocks beside one that is not used any more, which count as well
_LEAST_VOTES = 2.0  # windows that a unit must share with a segment
_JOBS = min(8, os.cpu_count() or 1)
_ZERO = bytes(BLOCK)


@dataclass(frozen=True)
class MadeDelta:
    """What a delta came to.

    Attributes:
        index: a frame of zstandard's.
        size: bytes of the object.
    """

    index: bytes
    size: int


def make_delta(
    old: Path,
    new: Path,
    target: Path,
    *,
    segment: int = SEGMENT,
    level: int | None = None,
    jobs: int = _JOBS,
    heard: Callable[[int], None] | None = None,
    stop: Stop | None = None,
) -> MadeDelta:
    """Write to *target* what of *new* does not lie in *old*.

    The same files give the same delta with one version of zstandard, however many cores there
    are. Needs memory for some hundred MiB, whatever the files' sizes, besides what the system
    keeps of the files.

    Args:
        old, new: the files.
        target: the file to write.
        segment: bytes of a segment of *new*; a multiple of the block.
        level: zstandard's; by how much comes if None.
        jobs: segments that are compressed at once.
        heard: hears of bytes of *new* that are done.
        stop: ends it when set.

    Raises:
        OSError: a file cannot be read, or *target* cannot be written.
        Interrupted: *stop* was set.
    """
    before, after = _bytes_of(old), _bytes_of(new)
    maker = _Maker(before, after, segment, stop)
    recipes: list[Recipe] = []
    making: deque[Future[tuple[Recipe, bytes]]] = deque()
    size = 0
    levels = (level, level) if level is not None else maker.levels()
    with target.open("wb") as file, ThreadPoolExecutor(max_workers=jobs) as pool:

        def keep(count: int) -> int:
            written = 0
            while len(making) > count:
                recipe, frame = making.popleft().result()
                file.write(frame)
                recipes.append(_placed(recipe, size + written, len(frame)))
                written += len(frame)
                if heard is not None:
                    heard(recipe.size)
            return written

        try:
            for offset in range(0, len(after), segment):
                making.append(pool.submit(maker.make, offset, levels))
                size += keep(2 * jobs)
            size += keep(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    index = deltas.write_index(len(before), len(after), recipes, segment)
    return MadeDelta(pack(index, INDEX_LEVEL), size)


def _placed(recipe: Recipe, start: int, stored: int) -> Recipe:
    return Recipe(recipe.size, start, stored, recipe.runs, recipe.pieces if stored else ())


def _bytes_of(path: Path) -> Bytes:
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


class _Maker:
    """Finds what two files have in common, then makes one segment after the other.

    Args:
        old, new: the files.
        segment: bytes of a segment.
        stop: ends it when set.
    """

    def __init__(self, old: Bytes, new: Bytes, segment: int, stop: Stop | None) -> None:
        self._old = old
        self._new = new
        self._segment = segment
        self._stop = stop
        self._sources = self._match()
        self._coming = np.flatnonzero(self._sources == _NOWHERE)
        rare = similar.rarity(len(self._coming) * BLOCK + len(old) // 8)
        self._samples = similar.sample(new, self._blocks(self._coming), rare)
        self._in_new = similar.Places(self._samples)
        self._in_old = similar.Places(similar.sample(old, self._left_over(), rare))
        self._shifts = self._shift()

    def levels(self) -> tuple[int, int]:
        """zstandard's level for each segment, and for those that take most even so."""
        size, of = len(self._coming) * BLOCK, len(self._new)
        level = level_for(size, of)
        return level, THOROUGH if size <= _MOST_AGAIN * of else level

    def _check(self) -> None:
        if self._stop is not None:
            self._stop.check()

    # --- blocks that are the same -----------------------------------------------------------------

    def _match(self) -> Numbers:
        """For each block of the new file where it lies in the old one."""
        old_names = list(self._names(self._old))
        where: dict[bytes, int] = {}
        for number, name in enumerate(old_names):
            where.setdefault(name, number)
        zero = hashlib.sha256(_ZERO).digest()
        sources = np.full(-(-len(self._new) // BLOCK), _NOWHERE, np.int64)
        following = -1
        for number, name in enumerate(self._names(self._new)):
            if name == zero:
                sources[number] = _ZEROED
            elif 0 <= following < len(old_names) and old_names[following] == name:
                sources[number] = following
            else:
                following = where.get(name, following)
                if name in where:
                    sources[number] = following
            following += 1 if following >= 0 else 0
        return sources

    def _names(self, data: Bytes) -> Iterator[bytes]:
        """The digest of each block; of a last one that is not whole as it is."""
        view = data.data
        for at in range(0, len(view), BLOCK):
            if not at % self._segment:
                self._check()
            yield hashlib.sha256(view[at : at + BLOCK]).digest()

    # --- what is alike ----------------------------------------------------------------------------

    def _blocks(self, numbers: Numbers) -> Iterator[tuple[int, int]]:
        """The bytes of blocks that lie one after the other, together."""
        if not len(numbers):
            return
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        for run in np.split(numbers, breaks):
            self._check()
            yield int(run[0]) * BLOCK, (int(run[-1]) + 1) * BLOCK

    def _left_over(self) -> Iterator[tuple[int, int]]:
        """What of the old file is used nowhere: what comes is most likely its successor."""
        left = np.ones(-(-len(self._old) // BLOCK), bool)
        left[self._sources[self._sources >= 0]] = False
        for _ in range(_NEAR):
            left[1:] |= left[:-1].copy()
            left[:-1] |= left[1:].copy()
        for start, end in self._blocks(np.flatnonzero(left)):
            yield start, min(end, len(self._old))

    def _shift(self) -> dict[int, tuple[int, ...]]:
        """For blocks that come: by how many bytes what is like them lies elsewhere in the old file.

        The shifts that most windows of a block agree on; what resembles it, lies shifted by that.
        """
        which, places, _ = self._in_old.find(self._samples.hashes, _FEW_PLACES)
        if not len(which):
            return {}
        own = self._samples.places[which]
        votes = np.stack([own // BLOCK, places - own], axis=1)
        pairs, counts = np.unique(votes, axis=0, return_counts=True)
        order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
        found: dict[int, tuple[int, ...]] = {}
        for block, shift in pairs[order].tolist():
            known = found.get(block, ())
            if len(known) < _SHIFTS:
                found[block] = (*known, shift)
        return found

    def _alike(self, block: int, shift: int) -> int:
        """How many bytes of a block are those that lie shifted in the old file."""
        start, end = block * BLOCK, min((block + 1) * BLOCK, len(self._new))
        if start + shift < 0 or end + shift > len(self._old):
            return -1
        return int(np.count_nonzero(self._new[start:end] == self._old[start + shift : end + shift]))

    # --- a segment --------------------------------------------------------------------------------

    def make(self, offset: int, levels: tuple[int, int]) -> tuple[Recipe, bytes]:
        """How a segment is made, and its frame."""
        self._check()
        size = min(self._segment, len(self._new) - offset)
        recipe = Recipe(size, 0, 0, self._runs(offset, size, self._patches(offset, size)))
        if not recipe.coming:
            return recipe, b""
        pieces = self._pieces(offset, size, recipe.coming)
        prefix = deltas.read_prefix(pieces, self._read(self._old), self._read(self._new))
        coming = self._coming_bytes(offset, recipe)
        frame = pack(coming, levels[0], prefix)
        least, most = _WORTH_AGAIN[0] * size, _WORTH_AGAIN[1] * recipe.coming
        if levels[1] != levels[0] and least < len(frame) < most:
            frame = pack(coming, levels[1], prefix)
        return Recipe(size, 0, len(frame), recipe.runs, pieces), frame

    def _patches(self, offset: int, size: int) -> dict[int, int]:
        """By how much what each block is like lies shifted, for those that are to be patched."""
        found: dict[int, int] = {}
        before: int | None = None  # where what is like the block before lies
        for block in range(offset // BLOCK, -(-(offset + size) // BLOCK)):
            source = int(self._sources[block])
            if source >= 0:
                before = (source - block) * BLOCK
            if source != _NOWHERE:
                continue
            shifts = [*self._shifts.get(block, ()), *([] if before is None else [before])]
            for beside in (block - 1, block + 1):
                shifts += self._shifts.get(beside, ())[:1]
            alike = [(self._alike(block, shift), shift) for shift in dict.fromkeys(shifts)]
            best = sorted(alike, key=lambda each: -each[0])[:_TRIALS]
            tried = [
                (self._trial(block, shift), shift)
                for count, shift in best
                if count >= _ALIKE * BLOCK
            ]
            if tried:
                size_of_it, before = min(tried)
                if size_of_it < _IN_FAVOUR * self._literal(block, before):
                    found[block] = before
        return found

    def _trial(self, block: int, shift: int) -> int:
        """What the difference of a block from what lies shifted in the old file takes."""
        start, end = block * BLOCK, min((block + 1) * BLOCK, len(self._new))
        own, old = self._new[start:end], self._old[start + shift : end + shift]
        return len(pack(_difference(own, old), _TRIAL_LEVEL))

    def _literal(self, block: int, shift: int) -> int:
        """What a block takes that is compressed with what is like it."""
        start, end = block * BLOCK, min((block + 1) * BLOCK, len(self._new))
        around = self._old[max(0, start + shift - _TRIAL_ROOM) : end + shift + _TRIAL_ROOM]
        return len(pack(self._new[start:end].tobytes(), _TRIAL_LEVEL, around.tobytes()))

    def _runs(self, offset: int, size: int, shifts: dict[int, int]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for block in range(offset // BLOCK, -(-(offset + size) // BLOCK)):
            source = int(self._sources[block])
            if block in shifts:
                run = Run(PATCHED, 1, block * BLOCK + shifts[block])
            elif source >= 0:
                run = Run(OLD, 1, source)
            else:
                run = Run(ZEROS if source == _ZEROED else LITERAL, 1)
            last = runs[-1] if runs else None
            if last is not None and last.kind == run.kind and _follows(last, run):
                runs[-1] = Run(last.kind, last.blocks + 1, last.source)
            else:
                runs.append(run)
        return tuple(runs)

    def _coming_bytes(self, offset: int, recipe: Recipe) -> bytes:
        """What a segment's frame holds."""
        literal, patched = [], []
        for run, at, count in recipe.places():
            data = self._new[offset + at : offset + at + count]
            if run.kind == LITERAL:
                literal.append(data.tobytes())
            elif run.kind == PATCHED:
                patched.append(_difference(data, self._old[run.source : run.source + count]))
        return b"".join(literal + patched)

    def _pieces(self, offset: int, size: int, coming: int) -> tuple[Piece, ...]:
        """The pieces that share most windows with what comes of a segment."""
        places = self._samples.places
        low, high = np.searchsorted(places, (offset, offset + size))
        hashes = np.unique(self._samples.hashes[low:high])
        votes: list[tuple[float, bool, int]] = []
        for new, index, most in (
            (False, self._in_old, len(self._old)),
            (True, self._in_new, offset),
        ):
            _, found, counts = index.find(hashes)
            if not len(found):
                continue
            units, inverse = np.unique(found // UNIT, return_inverse=True)
            sums = np.bincount(inverse, weights=1.0 / counts)
            votes += [
                (-vote, new, unit)
                for vote, unit in zip(sums.tolist(), units.tolist(), strict=True)
                if vote >= _LEAST_VOTES and (unit + 1) * UNIT <= most
            ]
        votes.sort()
        most = min(MOST_PREFIX // UNIT, max(_LEAST_PREFIX, coming * _PREFIX // UNIT))
        chosen = sorted((new, unit) for _, new, unit in votes[:most])
        return _joined(chosen)

    def _read(self, data: Bytes) -> deltas.ReadAt:
        return lambda at, size: data[at : at + size].tobytes()


_NOWHERE, _ZEROED = -1, -2  # instead of a block of the old file
_SHIFTS = 6  # of a block that are looked at
_TRIALS = 3  # of them that are tried


def _difference(own: Bytes, old: Bytes) -> bytes:
    """What is to be added to *old*, see :mod:`pipeline.transfer.deltas`."""
    size = len(own)
    numbers = [
        np.frombuffer(each.tobytes() + bytes(-size % 4), np.dtype("<u4")) for each in (own, old)
    ]
    return (numbers[0] - numbers[1]).tobytes()[:size]


def _follows(last: Run, run: Run) -> bool:
    step = {OLD: last.blocks, PATCHED: last.blocks * BLOCK}.get(run.kind, 0)
    return run.source == last.source + step


def _joined(units: Sequence[tuple[bool, int]]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for new, unit in units:
        last = pieces[-1] if pieces else None
        if last is not None and (last.new, last.unit + last.units) == (new, unit):
            pieces[-1] = Piece(new, last.unit, last.units + 1)
        else:
            pieces.append(Piece(new, unit, 1))
    return tuple(pieces)
