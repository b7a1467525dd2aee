"""Numbers in few bytes, and frames that stand for no more than is said."""

from __future__ import annotations

import random
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.transfer.numbers import Numbers, put_number, put_signed
from pipeline.transfer.packed import WINDOW_LOG, WrongError, bound, level_for, pack, unpack

MOST = (1 << 62) - 1
NOISE = random.Random(1).randbytes(200)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("number"), st.integers(0, 2 * MOST + 1)),
            st.tuples(st.just("signed"), st.integers(-MOST, MOST)),
            st.tuples(st.just("bytes"), st.binary(max_size=9)),
        )
    )
)
def test_what_is_put_is_read(values: list[tuple[str, int | bytes]]) -> None:
    out = bytearray(b"head")
    for kind, value in values:
        if isinstance(value, bytes):
            out += value
        else:
            (put_number if kind == "number" else put_signed)(out, value)
    numbers = Numbers(bytes(out), 4)
    for kind, value in values:
        if isinstance(value, bytes):
            assert numbers.take(len(value)) == value
        elif kind == "number":
            assert numbers.number(value) == value
        else:
            assert numbers.signed() == value
    assert numbers.ended


@pytest.mark.parametrize(
    ("value", "size"), [(0, 1), (127, 1), (128, 2), (16383, 2), (16384, 3), (MOST, 9)]
)
def test_small_numbers_are_short(value: int, size: int) -> None:
    out = bytearray()
    put_number(out, value)
    assert len(out) == size


@pytest.mark.parametrize(("value", "size"), [(0, 1), (-1, 1), (63, 1), (-64, 1), (64, 2), (-65, 2)])
def test_small_numbers_are_short_on_both_sides_of_zero(value: int, size: int) -> None:
    out = bytearray()
    put_signed(out, value)
    assert len(out) == size


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is cut"),
        (b"\x80", "it is cut"),
        (b"\x80" * 8, "it is cut"),
        (b"\x80" * 9 + b"\0", "has no end"),
        (b"\xff" * 100_000, "has no end"),
        (b"\x0b", "11 is too large"),
        (b"\xff" * 8 + b"\x7f", "is too large"),
    ],
)
def test_what_is_no_number_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Numbers(data).number(10)


def test_more_bytes_than_there_are_are_not_given() -> None:
    numbers = Numbers(b"abc")
    with pytest.raises(ValueError, match="it is cut"):
        numbers.take(4)
    assert numbers.take(3) == b"abc"


# --- frames -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.binary(max_size=3000), st.binary(max_size=3000), st.sampled_from([1, 3, 12, 19]))
def test_what_is_packed_is_unpacked(data: bytes, prefix: bytes, level: int) -> None:
    frame = pack(data, level, prefix)
    assert len(frame) <= bound(len(data))
    assert unpack(frame, len(data), prefix) == data
    assert unpack(frame, most=len(data), prefix=prefix) == data


def test_few_bytes_are_packed_more_thoroughly() -> None:
    assert level_for(30, 100) > level_for(31, 100)
    assert level_for(0, 0) > 0


BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 28))
UNTOLD = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)
HUNGRY = struct.pack("<I", 0xFD2FB528) + bytes([0xC0, (31 - 10) << 3]) + bytes(7) + b"\1"
SKIPPED = struct.pack("<II", 0x184D2A50, 100) + b"a" * 100


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"a" * 100,
        pack(b"a" * 99, 3),
        pack(b"a" * 101, 3),
        pack(b"a" * 100, 3)[:-1],
        pack(b"a" * 100, 3) + b"\0",
        pack(b"a" * 100, 3) + pack(b"", 3),
        pack(NOISE[:100], 3, NOISE),
        SKIPPED,
        SKIPPED + pack(b"a" * 100, 3),
        UNTOLD,
        BOMB,
        HUNGRY,
    ],
    ids=lambda frame: frame[:12].hex() or "nothing",
)
def test_what_is_not_the_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(WrongError):
        unpack(frame, 100)


@pytest.mark.parametrize("frame", [BOMB, UNTOLD, HUNGRY, pack(b"a" * 101, 3), b"", SKIPPED])
def test_a_frame_of_any_size_stands_for_no_more_than_the_most(frame: bytes) -> None:
    with pytest.raises(WrongError):
        unpack(frame, most=100)


def test_a_frame_asks_for_a_window_of_8_mib_at_most() -> None:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=WINDOW_LOG + 1, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    writer = compressor.compressobj(size=1000)
    frame = writer.compress(bytes(1000)) + writer.flush()
    told = zstandard.get_frame_parameters(frame).window_size
    if told <= 1000:  # a frame of one segment has no window
        assert unpack(frame, 1000) == bytes(1000)
    else:
        with pytest.raises(WrongError, match="too much memory"):
            unpack(frame, 1000)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.booleans(), st.integers(0, 200))
def test_any_bytes_are_refused_or_unpacked_within_limits(
    junk: bytes, framed: bool, most: int
) -> None:
    frame = struct.pack("<I", 0xFD2FB528) + junk if framed else junk
    for size in (None, most):
        try:
            data = unpack(frame, size, most=most)
        except WrongError:
            continue
        assert len(data) <= most
