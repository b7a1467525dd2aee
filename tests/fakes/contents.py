"""Contents of files that have something in common, as two releases of one part have."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st

BLOCK = 4096
_MOST = 24 * BLOCK


@dataclass(frozen=True)
class Pair:
    """A file, and its successor."""

    old: bytes
    new: bytes

    def __repr__(self) -> str:
        return f"Pair({len(self.old)} bytes, {len(self.new)} bytes)"


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that nothing makes smaller; the same ones for a seed."""
    return random.Random(seed).randbytes(size)


def words(size: int, seed: int = 0) -> bytes:
    """Text, of which much comes again."""
    chance = random.Random(seed)
    known = [b"%x" % chance.getrandbits(chance.randint(4, 40)) for _ in range(200)]
    found = bytearray()
    while len(found) < size:
        found += chance.choice(known) + b" "
    return bytes(found[:size])


def patched(data: bytes, step: int, by: int) -> bytes:
    """*data* with each *step*th byte raised, as a table of addresses is that moved."""
    found = bytearray(data)
    for at in range(0, len(found), step):
        found[at] = (found[at] + by) % 256
    return bytes(found)


def aligned(data: bytes) -> bytes:
    """*data*, with zeros up to the next block: as the files of a root lie."""
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


_SIZES = st.one_of(
    st.integers(0, 6).map(lambda blocks: blocks * BLOCK),
    st.integers(0, 6 * BLOCK),
    st.integers(0, 40),
)
_SEEDS = st.integers(0, 5)


@st.composite
def fresh(draw: st.DrawFn) -> bytes:
    """Some bytes that come from nowhere."""
    kind = draw(st.sampled_from(["noise", "words", "zeros", "short"]))
    size = draw(_SIZES)
    seed = draw(_SEEDS)
    if kind == "zeros":
        return bytes(size)
    if kind == "short":
        return draw(st.binary(max_size=30))
    return noise(size, seed) if kind == "noise" else words(size, seed)


@st.composite
def _successor(draw: st.DrawFn, old: bytes) -> bytes:
    """Some bytes that may come from *old*."""
    kind = draw(st.sampled_from(["fresh", "same", "moved", "odd", "patched", "aligned"]))
    if kind == "fresh" or not old:
        return draw(fresh())
    start = draw(st.integers(0, len(old)))
    found = old[start : start + draw(_SIZES)]
    if kind in ("same", "moved"):
        start -= start % BLOCK
        found = old[start : start + draw(st.integers(1, 8)) * BLOCK]
    if kind == "patched":
        return patched(found, draw(st.sampled_from([1, 4, 8, 400])), draw(st.integers(1, 255)))
    return aligned(found) if kind == "aligned" else found


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Two files: of blocks that moved or were patched, of what moved by odd bytes, of new bytes.

    One may be empty, both may be the same, and the last block need not be whole.
    """
    old = b"".join(draw(st.lists(fresh(), max_size=6)))[:_MOST]
    kind = draw(st.sampled_from(["made of", "made of", "made of", "same", "shifted", "longer"]))
    if kind == "same":
        return Pair(old, old)
    if kind == "shifted":
        return Pair(old, draw(st.binary(min_size=1, max_size=9)) + old)
    if kind == "longer":
        return Pair(old, old + draw(fresh()))
    return Pair(old, b"".join(draw(st.lists(_successor(old), max_size=8)))[: 2 * _MOST])


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """*data* with something wrong: bits, lengths, or numbers."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(["bit", "byte", "cut", "gone", "more", "number"]))
        if kind == "bit" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and found:
            found[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del found[at:]
        elif kind == "gone":
            del found[at : at + draw(st.integers(1, 9))]
        elif kind == "more":
            found[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            found[at : at + 1] = b"\xff" * draw(st.integers(0, 10)) + b"\x7f"
    return bytes(found)
