"""Deltas: old and delta give new, and an index leads nowhere else, whatever it says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.command import Stop
from pipeline.errors import Interrupted
from pipeline.transfer import deltas, diff
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
    put_together,
    read_index,
    write_index,
)
from pipeline.transfer.diff import make_delta
from pipeline.transfer.numbers import put_number
from pipeline.transfer.packed import WrongError, bound, pack, unpack
from pipeline.transfer.segments import SEGMENT, digest_of
from tests.fakes.contents import Pair, mutations, noise, pairs, patched, words
from tests.fakes.indexes import delta_within

SEGMENTS = [BLOCK, 4 * BLOCK, 16 * BLOCK, SEGMENT]


@dataclass(frozen=True)
class Made:
    """A delta, with what it is of."""

    pair: Pair
    segment: int
    index: bytes
    data: bytes

    @property
    def raw(self) -> bytes:
        return unpack(self.index, most=1 << 24)

    def read(self) -> tuple[Recipe, ...]:
        found = read_index(self.raw, len(self.pair.new), len(self.data), self.segment)
        assert found[0] == len(self.pair.old)
        return found[1]

    def frame(self, recipe: Recipe) -> bytes:
        return self.data[recipe.start : recipe.start + recipe.stored]


def make(pair: Pair, segment: int, *, jobs: int = 2, level: int | None = 3) -> Made:
    with TemporaryDirectory() as name:
        old, new, target = (Path(name) / each for each in ("old", "new", "delta"))
        old.write_bytes(pair.old)
        new.write_bytes(pair.new)
        made = make_delta(old, new, target, segment=segment, level=level, jobs=jobs)
        data = target.read_bytes()
    assert made.size == len(data)
    return Made(pair, segment, made.index, data)


def within(data: bytes) -> Callable[[int, int], bytes]:
    """Reads *data*; nobody may read beyond it."""

    def read(at: int, size: int) -> bytes:
        assert 0 <= at <= at + size <= len(data), "read beyond the end"
        return data[at : at + size]

    return read


def rebuild(made: Made) -> bytes:
    """The new file, each segment from the old one and those before it."""
    found = b""
    for recipe in made.read():
        found += put_together(recipe, made.frame(recipe), within(made.pair.old), within(found))
    return found


# --- the law ----------------------------------------------------------------------------------


@settings(max_examples=250)
@given(pairs(), st.sampled_from(SEGMENTS))
@example(Pair(b"", b""), BLOCK)
@example(Pair(b"", noise(9000)), BLOCK)
@example(Pair(noise(9000), b""), BLOCK)
@example(Pair(noise(9000), noise(9000)), BLOCK)
@example(Pair(noise(9000), b"x" + noise(9000)), SEGMENT)
@example(Pair(noise(100), noise(100)), SEGMENT)
def test_old_and_delta_give_new(pair: Pair, segment: int) -> None:
    assert rebuild(make(pair, segment)) == pair.new


@settings(max_examples=15)
@given(pairs(), st.sampled_from(SEGMENTS[:3]))
def test_it_is_the_same_on_any_machine(pair: Pair, segment: int) -> None:
    made = [make(pair, segment, jobs=jobs) for jobs in (1, 2, 5)]
    assert made[0] == made[1] == made[2]


def test_any_segment_can_be_made_that_has_those_before_it() -> None:
    """After a cut it goes on where it stood; each has a frame of its own."""
    again = words(40_000, 1)
    pair = Pair(words(90_000), words(30_000) + again + noise(20_000) + again)
    made = make(pair, 4 * BLOCK)
    assert any(piece.new for recipe in made.read() for piece in recipe.pieces), "none is new"
    for number, recipe in enumerate(made.read()):
        there = slice(number * made.segment, (number + 1) * made.segment)
        before = within(pair.new[: there.start])
        data = put_together(recipe, made.frame(recipe), within(pair.old), before)
        assert data == pair.new[there]


# --- what it costs ----------------------------------------------------------------------------


def test_what_did_not_change_costs_next_to_nothing() -> None:
    data = noise(400 * BLOCK + 77)
    made = make(Pair(data, data), SEGMENT)
    assert (len(made.data), len(made.index) < 100) == (0, True)
    assert sum(recipe.reused for recipe in made.read()) == len(data)


def test_what_moved_by_blocks_costs_next_to_nothing() -> None:
    old = noise(400 * BLOCK)
    new = old[100 * BLOCK :] + bytes(7 * BLOCK) + old[: 100 * BLOCK]
    made = make(Pair(old, new), SEGMENT)
    assert (len(made.data), len(made.index) < 100) == (0, True)


def test_what_moved_by_bytes_costs_little() -> None:
    old = noise(100 * BLOCK)
    made = make(Pair(old, b"moved" + old), SEGMENT)
    assert len(made.data) + len(made.index) < len(old) // 20


def test_what_changes_by_the_same_everywhere_is_patched() -> None:
    """A table of addresses: no dictionary finds a match in it."""
    entries = [struct.pack("<Q", 0x400000 + 977 * number * number) for number in range(4096)]
    moved = [struct.pack("<Q", 0x401230 + 977 * number * number) for number in range(4096)]
    pair = Pair(noise(8 * BLOCK) + b"".join(entries), noise(8 * BLOCK) + b"".join(moved))
    made = make(pair, SEGMENT)
    assert any(run.kind == PATCHED for recipe in made.read() for run in recipe.runs)
    assert len(made.data) < 2000
    assert rebuild(made) == pair.new


def test_what_is_like_the_old_file_somewhere_is_packed_with_it() -> None:
    pair = Pair(words(200_000), patched(words(200_000)[70_001:170_000], 300, 1))
    made = make(pair, SEGMENT)
    assert any(not piece.new for recipe in made.read() for piece in recipe.pieces)
    assert len(made.data) < len(pack(pair.new, 19)) // 2


def test_few_bytes_are_packed_as_well_as_can_be() -> None:
    pair = Pair(noise(60 * BLOCK), noise(60 * BLOCK) + words(BLOCK))
    assert make(pair, SEGMENT, level=None) == make(pair, SEGMENT, level=19)


def test_it_hears_of_all_that_is_done_and_can_be_stopped(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(noise(10 * BLOCK))
    new.write_bytes(words(30 * BLOCK + 5))
    heard: list[int] = []
    make_delta(old, new, tmp_path / "delta", segment=BLOCK, jobs=1, heard=heard.append)
    assert (len(heard), sum(heard)) == (31, 30 * BLOCK + 5)
    stop = Stop()

    def stops(_: int) -> None:
        stop.set()

    with pytest.raises(Interrupted):
        make_delta(old, new, tmp_path / "delta", segment=BLOCK, jobs=1, heard=stops, stop=stop)


@pytest.mark.parametrize("gone", ["old", "new"])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, gone: str) -> None:
    for name in {"old", "new"} - {gone}:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(OSError, match=gone):
        make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta")


# --- the index --------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    recipes = (
        Recipe(
            4 * BLOCK,
            0,
            100,
            (Run(OLD, 1, 3), Run(ZEROS, 1), Run(PATCHED, 1, 17), Run(LITERAL, 1)),
            (Piece(False, 1, 2), Piece(False, 0, 1)),
        ),
        Recipe(4 * BLOCK, 100, 0, (Run(OLD, 4, 4),)),
        Recipe(77, 100, 30, (Run(PATCHED, 1, 80_000 - 77),), (Piece(True, 0, 2),)),
    )
    raw = write_index(80_000, 8 * BLOCK + 77, recipes, 4 * BLOCK)
    assert read_index(raw, 8 * BLOCK + 77, 130, 4 * BLOCK) == (80_000, recipes)


def raw_index(*numbers: int, size: int = 4 * BLOCK, old: int = 3 * BLOCK) -> bytes:
    out = bytearray(struct.pack(">8sIQQ", b"recastD1", 4 * BLOCK, size, old))
    for number in numbers:
        put_number(out, number)
    return bytes(out)


def run(kind: int, blocks: int) -> int:
    return blocks << 2 | kind


def signed(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


ZEROED = (0, 1, run(ZEROS, 4))
COMES = (7, 1, run(LITERAL, 4))
LARGE = 5 << 20


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "it is cut"),
        (raw_index()[:27], "it is cut"),
        (b"x" + raw_index(*ZEROED)[1:], "does not begin as one"),
        (raw_index(*ZEROED, size=4 * BLOCK + 1), "it makes 16385 bytes in segments of 16384"),
        (struct.pack(">8sIQQ", b"recastD1", BLOCK, 4 * BLOCK, 0), "in segments of 4096, not"),
        (struct.pack(">8sIQQ", b"recastD1", 0, 4 * BLOCK, 0), "in segments of 0, not"),
        (raw_index(), "it is cut"),
        (raw_index(7), "it is cut"),
        (raw_index(*COMES), "it is cut"),
        (raw_index() + b"\x80" * 20, "has no end"),
        (raw_index(bound(4 * BLOCK) + 1), "too large a number"),
        (raw_index(0, 5), "5 is too large a number"),
        (raw_index(0, 1, run(ZEROS, 5)), "too large a number"),
        (raw_index(0, 0), "is not covered by its runs"),
        (raw_index(0, 1, run(ZEROS, 3)), "is not covered by its runs"),
        (raw_index(0, 1, run(ZEROS, 0)), "a run has no blocks"),
        (raw_index(0, 2, run(ZEROS, 4), run(ZEROS, 0)), "a run has no blocks"),
        (raw_index(0, 2, run(ZEROS, 4), run(ZEROS, 1)), "too large a number"),
        (raw_index(0, 1, run(OLD, 4), 0), "a run leads beyond the old file"),
        (raw_index(0, 2, run(OLD, 3), signed(-1)), "a run leads beyond the old file"),
        (raw_index(0, 2, run(OLD, 1), 2 << 60), "a run leads beyond the old file"),
        (raw_index(9, 1, run(PATCHED, 3), signed(1)), "a run leads beyond the old file"),
        (raw_index(9, 1, run(PATCHED, 3), signed(-1)), "a run leads beyond the old file"),
        (raw_index(*COMES, 257), "257 is too large a number"),
        (raw_index(*COMES, 1, 257 << 1, 0), "too large a number"),
        (raw_index(*COMES, 1, 0 << 1, 0, old=LARGE), "a piece leads beyond its file"),
        (raw_index(*COMES, 1, 1 << 1, 0), "a piece leads beyond its file"),
        (raw_index(*COMES, 1, 1 << 1, signed(-1), old=LARGE), "a piece leads beyond its file"),
        (raw_index(*COMES, 1, 1 << 1 | 1, 0, old=LARGE), "a piece leads beyond its file"),
        (
            raw_index(*COMES, 2, 256 << 1, 0, 1 << 1, 0, old=LARGE),
            "asks for too much memory",
        ),
        (raw_index(7, 1, run(ZEROS, 4), 0), "has a frame for nothing, or none"),
        (raw_index(0, 1, run(LITERAL, 4)), "has a frame for nothing, or none"),
        (raw_index(*ZEROED, 0), "it goes on after its end"),
        (raw_index(*ZEROED), "its frames have 0 bytes together, not 7"),
    ],
)
def test_what_is_no_index_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_index(raw, 4 * BLOCK, 7, 4 * BLOCK)


def test_an_index_may_ask_for_all_that_is_allowed() -> None:
    raw = raw_index(*COMES, 1, 256 << 1, 0, old=LARGE)
    _, (recipe,) = read_index(raw, 4 * BLOCK, 7, 4 * BLOCK)
    assert sum(piece.units for piece in recipe.pieces) * UNIT == MOST_PREFIX


def test_of_a_file_of_one_segment_it_does_not_matter_how_long_others_are() -> None:
    """Of such a part nobody knows it: it has no table."""
    made = make(Pair(noise(5000), noise(5000) + b"x"), SEGMENT)
    assert read_index(made.raw, 5001, len(made.data), 5001)[1] == made.read()


def various() -> Made:
    """A delta with everything in it."""
    again = words(9 * BLOCK, 7)
    table = b"".join(struct.pack("<I", 977 * number * number % (1 << 32)) for number in range(4096))
    old = noise(10 * BLOCK) + table + words(70_000)
    new = b"".join(
        [
            old[2 * BLOCK : 5 * BLOCK],
            bytes(3 * BLOCK),
            patched(table, 4, 3),
            noise(BLOCK, 2),
            again,
            old[5 * BLOCK : 9 * BLOCK],
            old[60_001:90_000],
            again,
        ]
    )
    return make(Pair(old, new), 8 * BLOCK)


VARIOUS = various()


def test_a_delta_may_have_everything_in_it() -> None:
    recipes = VARIOUS.read()
    kinds = {each.kind for recipe in recipes for each in recipe.runs}
    assert kinds == {LITERAL, ZEROS, OLD, PATCHED}
    assert {piece.new for recipe in recipes for piece in recipe.pieces} == {True, False}
    assert rebuild(VARIOUS) == VARIOUS.pair.new


@settings(max_examples=600)
@given(mutations(VARIOUS.raw))
def test_an_index_that_is_changed_is_refused_or_leads_nowhere_else(raw: bytes) -> None:
    new, stored = len(VARIOUS.pair.new), len(VARIOUS.data)
    try:
        old, recipes = read_index(raw, new, stored, VARIOUS.segment)
    except ValueError:
        return
    delta_within(recipes, old, new, stored)


@settings(max_examples=400)
@given(st.binary(max_size=60), st.integers(0, 1 << 50), st.integers(0, 1 << 40))
def test_an_index_of_anything_is_refused_or_leads_nowhere_else(
    body: bytes, size: int, old: int
) -> None:
    """Its sizes too: what is read is bounded by what it has, not by what it says."""
    raw = struct.pack(">8sIQQ", b"recastD1", SEGMENT, size, old) + body
    for stored in (0, 7):
        try:
            _, recipes = read_index(raw, size, stored, SEGMENT)
        except ValueError:
            continue
        delta_within(recipes, old, size, stored)


@settings(max_examples=300)
@given(mutations(VARIOUS.raw))
def test_whatever_an_index_says_only_what_is_right_passes(raw: bytes) -> None:
    """Made by an index that was changed, a segment is right by its digest, or is refused."""
    pair = VARIOUS.pair
    try:
        old, recipes = read_index(raw, len(pair.new), len(VARIOUS.data), VARIOUS.segment)
    except ValueError:
        return
    if old > len(pair.old):
        return  # refused before
    for number, recipe in enumerate(recipes):
        at = number * VARIOUS.segment
        frame = VARIOUS.frame(recipe)
        try:
            found = put_together(recipe, frame, within(pair.old), within(pair.new[:at]))
        except WrongError:
            continue
        assert len(found) == recipe.size
        same = found == pair.new[at : at + recipe.size]
        assert same == (digest_of(found) == digest_of(pair.new[at : at + recipe.size]))


@settings(max_examples=300)
@given(st.data())
def test_a_frame_that_is_changed_is_refused_or_gives_another_digest(draw: st.DataObject) -> None:
    recipes = [recipe for recipe in VARIOUS.read() if recipe.stored]
    recipe = draw.draw(st.sampled_from(recipes))
    frame = draw.draw(mutations(VARIOUS.frame(recipe)))
    at = VARIOUS.read().index(recipe) * VARIOUS.segment
    right = VARIOUS.pair.new[at : at + recipe.size]
    before = within(VARIOUS.pair.new[:at])
    try:
        found = put_together(recipe, frame, within(VARIOUS.pair.old), before)
    except WrongError:
        return
    assert len(found) == recipe.size
    assert found == right or digest_of(found) != digest_of(right)


@given(st.binary(max_size=4099), st.binary(max_size=4099))
def test_numbers_are_added_modulo_2_to_the_32(one: bytes, other: bytes) -> None:
    size = min(len(one), len(other))
    left, right = one[:size], other[:size]
    expected = b""
    for at in range(0, size, 4):
        numbers = (int.from_bytes(each[at : at + 4], "little") for each in (left, right))
        expected += (sum(numbers) % (1 << 32)).to_bytes(4, "little")
    assert deltas._added(left, right) == expected[:size]


@given(st.binary(max_size=99))
def test_what_is_added_is_the_difference(old: bytes) -> None:
    new = bytes(reversed(old))
    own, other = (np.frombuffer(each, np.uint8) for each in (new, old))
    assert deltas._added(diff._difference(own, other), old) == new
