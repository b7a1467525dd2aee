"""Fuzz what reads bytes that came over a link, guided by which lines they reach: `make fuzz`.

Each reader refuses what is wrong by its own error, or gives something that leads nowhere outside.
Anything else ends the run; libFuzzer then writes the bytes to a file, and this module reads it
again::

    python -m tests.fuzz.readers deltas artifacts/crash-…
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["pipeline.transfer"]):
    from pipeline.transfer import chunks, deltas, packed, segments
    from pipeline.transfer.chunking import make_chunks
    from pipeline.transfer.diff import make_delta

from tests.fakes.contents import noise, patched, words
from tests.fakes.indexes import chunks_within, delta_within

BLOCK = deltas.BLOCK
SEGMENT = 8 * BLOCK
OLD = noise(10 * BLOCK) + words(60_000)
NEW = OLD[2 * BLOCK : 5 * BLOCK] + bytes(3 * BLOCK) + patched(OLD, 97, 3) + words(BLOCK, 2) + b"x"


def _made() -> tuple[bytes, bytes, bytes, bytes]:
    """The index of a delta and its object, the index of chunks and their pack."""
    with TemporaryDirectory() as name:
        old, new, delta, pack = (Path(name) / each for each in ("old", "new", "delta", "pack"))
        old.write_bytes(OLD)
        new.write_bytes(NEW)
        first = make_delta(old, new, delta, segment=SEGMENT, level=3, jobs=1)
        second = make_chunks(new, [old], pack, level=3, jobs=1)
        index = packed.unpack(first.index, most=1 << 24)
        return (
            index,
            delta.read_bytes(),
            packed.unpack(second.index, most=1 << 24),
            pack.read_bytes(),
        )


DELTA_INDEX, DELTA, CHUNK_INDEX, PACK = _made()
RECIPES = deltas.read_index(DELTA_INDEX, len(NEW), len(DELTA), SEGMENT)[1]
TABLE = segments.write_table(
    len(NEW),
    [(1000, segments.digest_of(NEW[at : at + SEGMENT])) for at in range(0, len(NEW), SEGMENT)],
    SEGMENT,
)


def _within(data: bytes) -> deltas.ReadAt:
    def read(at: int, size: int) -> bytes:
        assert 0 <= at <= at + size <= len(data), "read beyond the end"
        return data[at : at + size]

    return read


def fuzz_deltas(data: bytes) -> None:
    """An index, and what is put together by it."""
    try:
        old, recipes = deltas.read_index(data, len(NEW), len(DELTA), SEGMENT)
    except ValueError:
        return
    delta_within(recipes, old, len(NEW), len(DELTA))
    if old > len(OLD):
        return
    for number, recipe in enumerate(recipes):
        frame = DELTA[recipe.start : recipe.start + recipe.stored]
        before = _within(NEW[: number * SEGMENT])
        with suppress(packed.WrongError):
            made = deltas.put_together(recipe, frame, _within(OLD), before)
            assert len(made) == recipe.size


def fuzz_frames(data: bytes) -> None:
    """A frame of a delta."""
    if not data:
        return
    recipe = RECIPES[data[0] % len(RECIPES)]
    at = RECIPES.index(recipe) * SEGMENT
    with suppress(packed.WrongError):
        made = deltas.put_together(recipe, data[1:], _within(OLD), _within(NEW[:at]))
        assert len(made) == recipe.size


def fuzz_chunks(data: bytes) -> None:
    """An index of chunks."""
    try:
        places, frames = chunks.read_index(data, len(NEW), len(PACK))
    except ValueError:
        return
    chunks_within(places, frames, len(NEW), len(PACK))


def fuzz_segments(data: bytes) -> None:
    """A table of segments."""
    count = len(TABLE) // 20 - 1
    try:
        found = segments.read_table(data, len(NEW), 1000 * count)
    except ValueError:
        return
    assert sum(each.size for each in found) == len(NEW)
    assert sum(each.stored for each in found) == 1000 * count


def fuzz_packed(data: bytes) -> None:
    """Frames of any kind."""
    for size in (None, 5000):
        with suppress(packed.WrongError):
            assert len(packed.unpack(data, size, most=5000)) <= 5000


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "deltas": (fuzz_deltas, [DELTA_INDEX]),
    "frames": (
        fuzz_frames,
        [
            bytes([number]) + DELTA[each.start : each.start + each.stored]
            for number, each in enumerate(RECIPES)
        ],
    ),
    "chunks": (fuzz_chunks, [CHUNK_INDEX]),
    "segments": (fuzz_segments, [TABLE]),
    "packed": (fuzz_packed, [packed.pack(words(5000), 3), packed.pack(bytes(5000), 19)]),
}


def main() -> None:
    """``NAME [FILE or option of libFuzzer…]``; without a file it begins with what is right."""
    name, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    with TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        given = any(not option.startswith("-") for option in options)
        atheris.Setup([sys.argv[0], *options, *([] if given else [folder])], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
