"""Chunks: a file is cut alike wherever its blocks lie, and an index leads nowhere else."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.command import Stop
from pipeline.errors import Interrupted
from pipeline.transfer.chunking import cut_file, make_chunks
from pipeline.transfer.chunks import (
    BLOCK,
    FRAME_BLOCKS,
    MOST_CLASSES,
    NAME,
    PACK,
    WHOLE,
    ZEROS,
    Chunk,
    Frame,
    Place,
    cut,
    read_index,
    write_index,
)
from pipeline.transfer.numbers import put_number
from pipeline.transfer.packed import bound, unpack
from tests.fakes.contents import Pair, aligned, mutations, noise, pairs, words
from tests.fakes.indexes import chunks_within


def cut_bytes(data: bytes) -> list[Chunk]:
    return list(cut(lambda at, size: data[at : at + size], len(data)))


def content(data: bytes, chunk: Chunk) -> bytes:
    return aligned(data)[chunk.block * BLOCK : (chunk.block + chunk.blocks) * BLOCK]


def names(chunks: Sequence[Chunk]) -> list[bytes]:
    return [chunk.name for chunk in chunks]


# --- cutting ----------------------------------------------------------------------------------


@settings(max_examples=150)
@given(pairs())
@example(Pair(bytes(5 * BLOCK), b""))
@example(Pair(bytes(5 * BLOCK + 1), b"x"))
@example(Pair(noise(600 * BLOCK), noise(257 * BLOCK)))
def test_chunks_cover_a_file_and_are_named_by_what_they_hold(pair: Pair) -> None:
    held: dict[bytes, bytes] = {}
    for data in (pair.old, pair.new):
        at = 0
        for chunk in cut_bytes(data):
            assert chunk.block == at
            assert chunk.blocks > 0
            at += chunk.blocks
            here = content(data, chunk)
            if chunk.name:
                assert chunk.blocks <= 16
                assert len(chunk.name) == NAME
                assert held.setdefault(chunk.name, here) == here
                blocks = [here[each : each + BLOCK] for each in range(0, len(here), BLOCK)]
                assert bytes(BLOCK) not in blocks, "blocks of zeros are in no chunk"
            else:
                assert not any(here)
        assert at == -(-len(data) // BLOCK)


def test_a_file_that_has_moved_is_cut_as_before() -> None:
    data = noise(300 * BLOCK)
    chunks = cut_bytes(data)
    assert 40 < len(chunks) < 150, "four blocks or so each"
    for blocks in (1, 2, 17, 64):
        moved = cut_bytes(noise(blocks * BLOCK, 1) + data)
        found = {(chunk.name, chunk.block - blocks) for chunk in moved}
        lost = [chunk for chunk in chunks if (chunk.name, chunk.block) not in found]
        assert len(lost) <= 5, "only where it begins"


@settings(max_examples=60)
@given(pairs())
def test_behind_a_block_of_zeros_nothing_before_it_matters(pair: Pair) -> None:
    before = aligned(pair.old) + bytes(BLOCK)
    data = b"x" + pair.new
    found = cut_bytes(before + data)
    own = cut_bytes(data)
    shift = len(before) // BLOCK
    moved = [Chunk(each.block + shift, each.blocks, each.name) for each in own]
    assert found[len(found) - len(own) :] == moved


def test_what_repeats_itself_for_ever_is_cut_at_16_blocks() -> None:
    for seed in range(200):
        chunks = cut_bytes(noise(BLOCK, seed) * 40)
        if len(chunks) < 40:
            break
    assert [chunk.blocks for chunk in chunks] == [16, 16, 8]
    assert chunks[0].name == chunks[1].name != chunks[2].name


# --- index and pack ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """Chunks, with what they are of."""

    data: bytes
    index: bytes
    pack: bytes

    @property
    def raw(self) -> bytes:
        return unpack(self.index, most=1 << 24)

    def read(self) -> tuple[tuple[Place, ...], tuple[Frame, ...]]:
        return read_index(self.raw, len(self.data), len(self.pack))

    def frame(self, frame: Frame) -> bytes:
        data = self.pack[frame.start : frame.start + frame.stored]
        return unpack(data, frame.blocks * BLOCK)


def make(data: bytes, *bases: bytes, jobs: int = 2, level: int | None = 3) -> Made:
    with TemporaryDirectory() as name:
        new, target = Path(name) / "new", Path(name) / "pack"
        new.write_bytes(data)
        paths = [Path(name) / f"base {number}" for number in range(len(bases))]
        for path, base in zip(paths, bases, strict=True):
            path.write_bytes(base)
        made = make_chunks(new, paths, target, level=level, jobs=jobs)
        packed = target.read_bytes()
    assert made.size == len(packed)
    return Made(data, made.index, packed)


@settings(max_examples=150)
@given(pairs(), st.integers(0, 3))
@example(Pair(b"", b""), 1)
@example(Pair(b"", noise(9 * BLOCK + 5)), 1)
@example(Pair(b"", noise(9 * BLOCK + 5)), 0)
@example(Pair(noise(9 * BLOCK), b""), 1)
def test_the_pack_has_just_what_one_of_the_bases_lacks(pair: Pair, count: int) -> None:
    bases = [pair.old, pair.new[: len(pair.new) // 2], noise(9 * BLOCK)][:count]
    made = make(pair.new, *bases)
    places, frames = made.read()
    assert [place.chunk for place in places] == cut_bytes(pair.new)
    held = [made.frame(frame) for frame in frames]
    known = [set(names(cut_bytes(base))) for base in bases]
    taken = 0
    for place in places:
        lacked = bool(place.chunk.name) and any(place.chunk.name not in each for each in known)
        assert (place.frame >= 0) == lacked
        if lacked:
            there = held[place.frame][place.at * BLOCK :][: place.chunk.blocks * BLOCK]
            assert there == content(pair.new, place.chunk)
            taken += place.chunk.blocks
    assert taken == sum(frame.blocks for frame in frames), "and nothing else"


@settings(max_examples=15)
@given(pairs())
def test_it_is_the_same_on_any_machine(pair: Pair) -> None:
    made = [make(pair.new, pair.old, jobs=jobs) for jobs in (1, 2, 5)]
    assert made[0] == made[1] == made[2]


def test_frames_are_of_bounded_size_and_lie_in_the_order_of_need() -> None:
    data = noise(1000 * BLOCK)
    made = make(data, data[: 500 * BLOCK], b"")
    places, frames = made.read()
    assert len({frame.kind for frame in frames}) == 2
    assert max(frame.blocks for frame in frames) <= FRAME_BLOCKS
    needed = [place.frame for place in places if place.frame >= 0]
    assert list(dict.fromkeys(needed)) == list(range(len(frames)))


def test_there_are_no_more_classes_than_a_machine_can_keep_frames_of() -> None:
    data = noise(100 * BLOCK)
    bases = [data[: (100 - 4 * each) * BLOCK] for each in range(20)]
    made = make(data, *bases)
    _, frames = made.read()
    assert {frame.kind for frame in frames} <= set(range(MOST_CLASSES))
    later = make(data, *reversed(bases))
    assert len(later.read()[1]) == 1


def test_it_hears_of_all_that_is_packed_and_can_be_stopped(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_bytes(words(600 * BLOCK))
    (tmp_path / "base").write_bytes(b"")
    heard: list[int] = []
    make_chunks(new, [tmp_path / "base"], tmp_path / "pack", jobs=1, heard=heard.append)
    assert sum(heard) == 600 * BLOCK
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        list(cut_file(new, stop))
    with pytest.raises(Interrupted):
        make_chunks(new, [], tmp_path / "pack", stop=stop)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    with pytest.raises(OSError, match="base"):
        make_chunks(tmp_path / "new", [tmp_path / "base"], tmp_path / "pack")


# --- what an index may say --------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    name = bytes(range(NAME))
    frames = (Frame(0, 3, 0, 50), Frame(5, 2, 50, 30), Frame(0, 1, 80, 7))
    places = (
        Place(Chunk(0, 20, b"")),
        Place(Chunk(20, 2, name), 0, 0),
        Place(Chunk(22, 16, name)),
        Place(Chunk(38, 2, name), 1, 0),
        Place(Chunk(40, 1, name), 0, 2),
        Place(Chunk(41, 1, name), 2, 0),
    )
    size = 41 * BLOCK + 1
    assert read_index(write_index(size, places, frames), size, 87) == (places, frames)


def raw_index(*numbers: int, named: int = 2, size: int = 20 * BLOCK) -> bytes:
    out = bytearray(struct.pack(">8sQ", b"recastC1", size))
    for number in (named, *numbers):
        put_number(out, number)
    return bytes(out) + bytes(named * NAME)


def chunk(where: int, blocks: int) -> int:
    return blocks << 2 | where


FRAME = (1, 0, 4, 7)  # one, with 4 blocks


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "it is cut"),
        (raw_index()[:15], "it is cut"),
        (b"x" + raw_index()[1:], "does not begin as one"),
        (raw_index(size=20 * BLOCK + 1), "it is about 81921 bytes"),
        (raw_index(named=0), "it is cut"),
        (raw_index(named=0)[:16], "it is cut"),
        (raw_index(named=0)[:16] + b"\x09" + bytes(8), "9 is too large a number"),
        (raw_index(named=0) + b"\x80" * 20, "has no end"),
        (raw_index(22), "22 is too large a number"),
        (raw_index(1, MOST_CLASSES, 4, 7), "too large a number"),
        (raw_index(1, 0, FRAME_BLOCKS + 1, 7), "too large a number"),
        (raw_index(1, 0, 4, bound(4 * BLOCK) + 1), "too large a number"),
        (raw_index(1, 0, 4, 8), "its frames have 8 bytes together, not 7"),
        (raw_index(0), "its frames have 0 bytes together, not 7"),
        (raw_index(*FRAME, chunk(ZEROS, 0)), "the chunk at block 0 is none"),
        (raw_index(*FRAME, chunk(3, 1)), "the chunk at block 0 is none"),
        (raw_index(*FRAME, chunk(WHOLE, 17)), "the chunk at block 0 is none"),
        (raw_index(*FRAME, chunk(PACK, 17)), "the chunk at block 0 is none"),
        (raw_index(*FRAME, chunk(ZEROS, 21)), "too large a number"),
        (raw_index(*FRAME, chunk(ZEROS, 19), chunk(ZEROS, 2)), "too large a number"),
        (raw_index(*FRAME, chunk(PACK, 1), MOST_CLASSES), "too large a number"),
        (raw_index(*FRAME, chunk(PACK, 1), 1), "a chunk is in no frame"),
        (raw_index(*FRAME, chunk(PACK, 4), 0, chunk(PACK, 1), 0), "a chunk is in no frame"),
        (raw_index(*FRAME, chunk(PACK, 3), 0, chunk(PACK, 2), 0), "leads beyond its frame"),
        (raw_index(1, 0, 0, 7, chunk(PACK, 1), 0), "leads beyond its frame"),
        (raw_index(*FRAME, chunk(ZEROS, 20)), "holds more than its chunks"),
        (raw_index(*FRAME, chunk(PACK, 3), 0, chunk(ZEROS, 17)), "holds more than its chunks"),
        (raw_index(*FRAME, chunk(PACK, 4), 0, chunk(ZEROS, 16), named=0), "it is cut"),
        (raw_index(*FRAME, chunk(PACK, 4), 0, chunk(ZEROS, 16)), "goes on after its end"),
    ],
)
def test_what_is_no_index_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_index(raw, 20 * BLOCK, 7)


BASE = noise(40 * BLOCK)
VARIOUS = make(
    BASE[:BLOCK] + words(20 * BLOCK) + bytes(5 * BLOCK) + BASE[4 * BLOCK :] + noise(300 * BLOCK, 2),
    BASE,
    words(10 * BLOCK),
)


def test_an_index_may_have_everything_in_it() -> None:
    places, frames = VARIOUS.read()
    chunks_within(places, frames, len(VARIOUS.data), len(VARIOUS.pack))
    assert {frame.kind for frame in frames} == {0, 1}
    assert {bool(place.chunk.name) for place in places} == {True, False}


@settings(max_examples=600)
@given(mutations(VARIOUS.raw))
def test_an_index_that_is_changed_is_refused_or_leads_nowhere_else(raw: bytes) -> None:
    try:
        places, frames = read_index(raw, len(VARIOUS.data), len(VARIOUS.pack))
    except ValueError:
        return
    chunks_within(places, frames, len(VARIOUS.data), len(VARIOUS.pack))


@settings(max_examples=400)
@given(st.binary(max_size=60), st.integers(0, 1 << 50))
def test_an_index_of_anything_is_refused_or_leads_nowhere_else(body: bytes, size: int) -> None:
    """Its size too: what is read is bounded by what it has, not by what it says."""
    raw = struct.pack(">8sQ", b"recastC1", size) + body
    for stored in (0, 7):
        try:
            places, frames = read_index(raw, size, stored)
        except ValueError:
            continue
        chunks_within(places, frames, size, stored)
