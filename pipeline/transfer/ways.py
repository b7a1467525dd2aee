"""The ways by which the segments of a part come: as a delta, in chunks, or out of the whole.

Each tells what it would cost before anything of it is fetched but its index, and brings one
segment after the other. None is believed: whoever asks holds each segment against its digest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import HostError
from pipeline.transfer import chunks, deltas
from pipeline.transfer.packed import WrongError, unpack
from pipeline.transfer.ranged import Link, Range, Ranges

if TYPE_CHECKING:
    from pipeline.models.pointer import Chunks, Delta, StoredObject
    from pipeline.transfer.base import Readable, Seed
    from pipeline.transfer.segments import Segment

MOST_INDEX = 16 << 20
"""Bytes of an index, decompressed, at most."""

_UNKNOWN = -1
_BLOCKS = 1 << 40  # more than anything has


@dataclass(frozen=True)
class Brought:
    """A segment as it came; not verified yet.

    Attributes:
        data: its bytes.
        reused: how many of them were found on this machine.
    """

    data: bytes
    reused: int = 0


class Way(Protocol):
    """A way by which segments come. Segments are numbers, from 0."""

    @property
    def name(self) -> str:
        """What a person is told: ``delta from 20260301.120000.gabc``."""

    def open(self) -> None:
        """Fetch what tells its cost.

        Raises:
            WrongError: what came is not what it must be.
            MissingError, NetworkError, HostError: the store cannot be read.
        """

    def plan(self, missing: Sequence[int]) -> int:
        """Prepare to bring *missing*, in order; the bytes that will come."""

    def bring(self, number: int) -> Brought:
        """The next segment of those that were planned.

        Raises:
            WrongError: what came cannot be right.
            MissingError, NetworkError, HostError: the store or a seed cannot be read.
        """

    def close(self) -> None:
        """Let go of connections."""


class WholeWay:
    """Segments out of the object that holds all of the part.

    Args:
        link: what they come through.
        stored: the object.
        segments: all segments of the part.
    """

    name = "whole"

    def __init__(self, link: Link, stored: StoredObject, segments: Sequence[Segment]) -> None:
        self._link = link
        self._stored = stored
        self._segments = segments
        self._ranges = Ranges(link, stored, ())

    def open(self) -> None:
        """Nothing: the table of segments tells it."""

    def plan(self, missing: Sequence[int]) -> int:
        """See :meth:`Way.plan`."""
        self.close()
        wanted = [self._segments[number] for number in missing]
        spans = [(each.start, each.start + each.stored) for each in wanted]
        self._ranges = Ranges(self._link, self._stored, spans)
        return self._ranges.size

    def bring(self, number: int) -> Brought:
        """See :meth:`Way.bring`."""
        segment = self._segments[number]
        data = self._ranges.read(segment.start, segment.stored)
        if self._stored.encoding == "zstd":
            data = unpack(data, segment.size)
        return Brought(data)

    def close(self) -> None:
        """Let go of the connection."""
        self._ranges.close()


class DeltaWay:
    """Segments as what is new in them.

    Args:
        link: what comes, comes through it.
        delta: where it is.
        seed: the old part.
        target: the new part, as far as it is right.
        segments: all segments of the part.
    """

    def __init__(
        self,
        link: Link,
        delta: Delta,
        seed: Seed,
        target: Readable,
        segments: Sequence[Segment],
    ) -> None:
        self._link = link
        self._delta = delta
        self._seed = seed
        self._target = target
        self._segments = segments
        self._recipes: tuple[deltas.Recipe, ...] = ()
        self._ranges: Ranges | None = None

    @property
    def name(self) -> str:
        """What a person is told."""
        return f"delta from {self._delta.version}"

    def open(self) -> None:
        """Fetch the index."""
        data = self._link.get(self._delta.index, MOST_INDEX)
        stored = self._delta.stored.size if self._delta.stored else 0
        last = self._segments[-1]
        try:
            old_size, self._recipes = deltas.read_index(
                data, last.offset + last.size, stored, self._segments[0].size
            )
        except ValueError as error:
            raise WrongError(f"its index is none: {error}") from error
        if old_size > self._seed.size:
            raise WrongError("it starts from more than this machine has")

    def plan(self, missing: Sequence[int]) -> int:
        """See :meth:`Way.plan`."""
        self.close()
        wanted = [self._recipes[number] for number in missing]
        spans = [(each.start, each.start + each.stored) for each in wanted if each.stored]
        if self._delta.stored is None:
            return 0
        self._ranges = Ranges(self._link, self._delta.stored, spans)
        return self._ranges.size

    def bring(self, number: int) -> Brought:
        """See :meth:`Way.bring`."""
        recipe = self._recipes[number]
        frame = b""
        if recipe.stored:
            assert self._ranges is not None
            frame = self._ranges.read(recipe.start, recipe.stored)
        old, new = _own(self._seed), _own(self._target)
        data = deltas.put_together(recipe, frame, old, new)
        return Brought(data, recipe.reused)

    def close(self) -> None:
        """Let go of the connection."""
        if self._ranges is not None:
            self._ranges.close()
        self._ranges = None


def _lies(on: int, block: int) -> int:
    """Where a chunk lies on this machine, as one number: there are many of them."""
    return on * _BLOCKS + block


class ChunkWay:
    """Segments out of chunks that lie on this machine, and of what it lacks.

    Args:
        link: what comes, comes through it.
        listed: where index and pack are.
        whole: brings what is in no pack.
        seeds: what may hold chunks.
        target: the same; what is right of it stays, and what lies behind the segment that is
            being made has not been written over yet.
        segments: all segments of the part.
        missing: those that are not right in *target*.
    """

    name = "chunks"

    def __init__(
        self,
        link: Link,
        listed: Chunks,
        whole: WholeWay,
        seeds: Sequence[Seed],
        target: Readable,
        segments: Sequence[Segment],
        missing: Sequence[int],
    ) -> None:
        self._link = link
        self._listed = listed
        self._whole = whole
        self._seeds = seeds
        self._target = target
        self._segments = segments
        self._missing = frozenset(missing)
        self._places: tuple[chunks.Place, ...] = ()
        self._starts: list[int] = []
        self._frames: tuple[chunks.Frame, ...] = ()
        self._found: dict[bytes, int] = {}  # by name: :func:`_lies`, or _UNKNOWN
        self._behind: dict[bytes, int] = {}  # where in the target a chunk lies last
        self._from_whole: frozenset[int] = frozenset()
        self._ranges: Ranges | None = None
        self._unpacked: dict[int, bytes] = {}
        self._last: dict[int, int] = {}  # for each frame the last segment that needs it

    def open(self) -> None:
        """Fetch the index, and look for its chunks on this machine."""
        data = self._link.get(self._listed.index, MOST_INDEX)
        stored = self._listed.pack.size if self._listed.pack else 0
        try:
            self._places, self._frames = chunks.read_index(data, self._size, stored)
        except ValueError as error:
            raise WrongError(f"its index is none: {error}") from error
        self._starts = [place.chunk.block for place in self._places]
        self._found = {place.chunk.name: _UNKNOWN for place in self._places}
        self._found.pop(b"", None)
        for number, seed in enumerate(self._seeds):
            self._look(number, seed, min(seed.size, 2 * self._size))
        self._look_at_target()

    @property
    def _size(self) -> int:
        last = self._segments[-1]
        return last.offset + last.size

    def _look(self, number: int, seed: Seed, size: int) -> None:
        try:
            for chunk in chunks.cut(self._reader(seed), size - size % chunks.BLOCK):
                if self._found.get(chunk.name) == _UNKNOWN:
                    self._found[chunk.name] = _lies(number, chunk.block)
        except HostError:  # then what lies behind comes over the link
            return

    def _look_at_target(self) -> None:
        length = self._segments[0].size
        size = self._size - self._size % chunks.BLOCK
        try:
            for chunk in chunks.cut(self._reader(self._target), size):
                if self._found.get(chunk.name) != _UNKNOWN:
                    continue
                first = chunk.block * chunks.BLOCK // length
                last = ((chunk.block + chunk.blocks) * chunks.BLOCK - 1) // length
                if self._missing.isdisjoint(range(first, last + 1)):
                    self._found[chunk.name] = _lies(len(self._seeds), chunk.block)
                else:
                    self._behind[chunk.name] = chunk.block
        except HostError:
            return

    def _reader(self, place: Readable) -> deltas.ReadAt:
        def read(offset: int, size: int) -> bytes:
            self._link.check()
            return place.read(offset, size)

        return read

    def plan(self, missing: Sequence[int]) -> int:
        """See :meth:`Way.plan`."""
        self.close()
        self._last = {}
        from_whole: list[int] = []
        for number in missing:
            lacking = [p.frame for p, _, _ in self._pieces(number) if not self._has(p, number)]
            if -1 in lacking:
                from_whole.append(number)
            else:
                self._last.update(dict.fromkeys(lacking, number))
        frames = [self._frames[number] for number in sorted(self._last)]
        spans: list[Range] = [(each.start, each.start + each.stored) for each in frames]
        self._from_whole = frozenset(from_whole)
        cost = self._whole.plan(from_whole)
        if self._listed.pack is None:
            return cost
        self._ranges = Ranges(self._link, self._listed.pack, spans)
        return cost + self._ranges.size

    def _pieces(self, number: int) -> Iterator[tuple[chunks.Place, int, int]]:
        """What a segment consists of: a chunk, the first byte of it, and how many."""
        segment = self._segments[number]
        end = segment.offset + segment.size
        at = bisect_right(self._starts, segment.offset // chunks.BLOCK) - 1
        while at < len(self._places):
            place = self._places[at]
            begin = place.chunk.block * chunks.BLOCK
            if begin >= end:
                return
            first = max(begin, segment.offset)
            last = min(begin + place.chunk.blocks * chunks.BLOCK, end)
            yield place, first - begin, last - first
            at += 1

    def _has(self, place: chunks.Place, number: int) -> bool:
        return not place.chunk.name or self._source(place, number) is not None

    def _source(self, place: chunks.Place, number: int) -> tuple[Readable, int] | None:
        """Where on this machine a chunk lies while a segment is made: on what, at which byte."""
        found = self._found[place.chunk.name]
        if found != _UNKNOWN:
            which, block = divmod(found, _BLOCKS)
            on = self._seeds[which] if which < len(self._seeds) else self._target
            return on, block * chunks.BLOCK
        block = self._behind.get(place.chunk.name, -1)
        if block * chunks.BLOCK < self._segments[number].offset:
            return None
        return self._target, block * chunks.BLOCK

    def bring(self, number: int) -> Brought:
        """See :meth:`Way.bring`."""
        if number in self._from_whole:
            return self._whole.bring(number)
        data = bytearray()
        reused = 0
        for place, skip, count in self._pieces(number):
            source = self._source(place, number) if place.chunk.name else None
            if not place.chunk.name:
                data += bytes(count)
            elif source is not None:
                data += _own(source[0])(source[1] + skip, count)
                reused += count
            else:
                at = place.at * chunks.BLOCK + skip
                data += self._frame(place.frame)[at : at + count]
        # One frame of each class is in use at a time: what is not needed any more goes.
        kept = {each: held for each, held in self._unpacked.items() if self._last[each] > number}
        self._unpacked = kept
        return Brought(bytes(data), reused)

    def _frame(self, number: int) -> bytes:
        found = self._unpacked.get(number)
        if found is None:
            frame = self._frames[number]
            assert self._ranges is not None
            came = self._ranges.read(frame.start, frame.stored)
            found = self._unpacked[number] = unpack(came, frame.blocks * chunks.BLOCK)
        return found

    def close(self) -> None:
        """Let go of connections."""
        self._whole.close()
        if self._ranges is not None:
            self._ranges.close()
        self._ranges = None
        self._unpacked.clear()


def _own(place: Readable) -> deltas.ReadAt:
    """Reads *place*; what cannot be read there makes a way fail, and is no end of it all."""

    def read(offset: int, size: int) -> bytes:
        try:
            return place.read(offset, size)
        except HostError as error:
            raise WrongError(f"what this machine has cannot be read: {error}") from error

    return read
