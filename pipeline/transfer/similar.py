"""Where two files resemble each other: sampled 16-byte windows, and where each of them lies.

A window is looked at if the four bytes that it begins with say so: the same content is sampled
wherever it lies, so that two files can be compared without comparing all positions of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.int64]
    Hashes = NDArray[np.uint64]

WINDOW = 16
"""Bytes of a window."""

MOST_PLACES = 16
"""Windows that lie at more places than this say nothing about where they come from."""

_PIECE = 4 << 20  # bytes that are looked at at once: some ten times that in memory
_SAMPLES = 6 << 20  # about as many are kept of a file, so that memory is bounded
_RARE, _RAREST = 4, 9  # one position in two to the power of these is sampled
_TURN = np.uint32(0x9E3779B1)  # 2^32 divided by the golden ratio: Knuth, TAOCP 6.4
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # of splitmix64 and xxHash
_EMPTY_HASHES = np.zeros(0, np.uint64)
_EMPTY_NUMBERS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Samples:
    """Sampled windows.

    Attributes:
        hashes: of their bytes.
        places: where they begin, in the file.
    """

    hashes: Hashes
    places: Numbers


def rarity(size: int) -> int:
    """How rarely to sample *size* bytes: one position in two to the power of this."""
    rare = _RARE
    while size >> rare > _SAMPLES and rare < _RAREST:
        rare += 1
    return rare


def sample(data: Bytes, ranges: Iterable[tuple[int, int]], rare: int) -> Samples:
    """The sampled windows that begin in *ranges* of *data*."""
    hashes, places = [], []
    for start, end in ranges:
        for at in range(start, end, _PIECE):
            stop = min(at + _PIECE, end, len(data) - WINDOW + 1)
            if stop <= at:
                continue
            found = _sample(data[at : stop + WINDOW - 1], rare)
            hashes.append(found.hashes)
            places.append(found.places + at)
    if not hashes:
        return Samples(_EMPTY_HASHES, _EMPTY_NUMBERS)
    return Samples(np.concatenate(hashes), np.concatenate(places))


def _sample(piece: Bytes, rare: int) -> Samples:
    piece = np.ascontiguousarray(piece)
    count = len(piece) - WINDOW + 1
    first: NDArray[np.uint32] = np.ndarray(
        (count,), np.uint32, piece, 0, (1,)
    )  # at every byte: they overlap
    chosen = np.flatnonzero((first * _TURN >> np.uint32(32 - rare) == 0) & (first != 0))
    words: Hashes = np.ndarray((count + 8,), np.uint64, piece, 0, (1,))
    hashes: Hashes = words[chosen] * _MIX[0] + words[chosen + 8] * _MIX[1]
    hashes = hashes ^ (hashes >> np.uint64(29))
    return Samples(hashes * _MIX[0], chosen.astype(np.int64))


class Places:
    """Finds where windows lie in a file.

    Args:
        samples: those of the file.
    """

    def __init__(self, samples: Samples) -> None:
        order = np.argsort(samples.hashes, kind="stable")
        self._hashes = samples.hashes[order]
        self._places = samples.places[order]

    def find(self, hashes: Hashes, most: int = MOST_PLACES) -> tuple[Numbers, Numbers, Numbers]:
        """Where windows with *hashes* lie.

        Returns:
            For each place: the index into *hashes*, the place, and at how many places this
            window lies. Windows with more than *most* are left out.
        """
        low = np.searchsorted(self._hashes, hashes, "left")
        counts = np.searchsorted(self._hashes, hashes, "right") - low
        counts[counts > most] = 0
        which = np.repeat(np.arange(len(hashes)), counts)
        if not len(which):
            return _EMPTY_NUMBERS, _EMPTY_NUMBERS, _EMPTY_NUMBERS
        before = np.repeat(np.cumsum(counts) - counts, counts)
        index = np.repeat(low, counts) + np.arange(len(which)) - before
        return which, self._places[index], counts[which]
