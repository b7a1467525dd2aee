"""The segments of a part: what each MiB of it must be, and where the whole has it.

However the bytes of a part come to a machine, they come segment by segment, and each is held
against its digest before it is written. The table of them is signed with the release: it is the
one thing that all ways of bringing bytes have in common. It is bytes, big-endian::

    0   8   ``recastS1``
    8   4   bytes of a segment
    12  8   bytes of the part
    20  20  for each segment: 4 bytes with the size of its frame in the object that holds the whole
            part (frames lie there one after the other, each compressed alone or not at all), and
            the first 16 bytes of the SHA-256 of its bytes

128 bits are enough: to pass off other bytes one has to meet a digest that is given (a second
preimage), and the whole is held against the root hash besides. A part of one segment needs no
table: its own digest is that of the segment.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

SEGMENT = 1 << 20
"""Bytes of a segment; larger ones are not read."""

DIGEST = 16
"""Bytes of a segment's digest."""

_MAGIC = b"recastS1"
_HEAD = struct.Struct(">8sIQ")
_ENTRY = struct.Struct(f">I{DIGEST}s")
_OVERHEAD = 64 << 10  # bytes by which compression may make it larger; zstandard's bound is less


@dataclass(frozen=True, slots=True)
class Segment:
    """Some bytes of a part, and where the object that holds all of it has them.

    Attributes:
        offset, size: which bytes of the part.
        start, stored: which bytes of the object: the first one, and how many.
        digest: what :func:`digest_of` says of its bytes.
    """

    offset: int
    size: int
    start: int
    stored: int
    digest: bytes


def digest_of(data: bytes | bytearray) -> bytes:
    """The first 16 bytes of the SHA-256 of *data*."""
    return hashlib.sha256(data).digest()[:DIGEST]


def table_size(size: int, segment: int = SEGMENT) -> int:
    """Bytes of the table of a part of *size* bytes."""
    return _HEAD.size + -(-size // segment) * _ENTRY.size


def write_table(size: int, entries: Sequence[tuple[int, bytes]], segment: int = SEGMENT) -> bytes:
    """The table of a part.

    Args:
        size: bytes of the part.
        entries: for each segment the size of its frame, and its digest.
        segment: bytes of a segment.
    """
    assert len(entries) == -(-size // segment)
    return _HEAD.pack(_MAGIC, segment, size) + b"".join(_ENTRY.pack(*each) for each in entries)


def read_table(data: bytes, size: int, stored: int) -> tuple[Segment, ...]:
    """The segments that a table tells of, in order.

    Args:
        data: the table.
        size: bytes of the part.
        stored: bytes of the object that holds all of it.

    Raises:
        ValueError: it is no table, or that of another part; says why.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is cut")
    magic, length, told = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if told != size:
        raise ValueError(f"it is about {told} bytes, not {size}")
    if not 0 < length <= SEGMENT:
        raise ValueError(f"its segments have {length} bytes")
    if len(data) != table_size(size, length):
        raise ValueError(f"it has {len(data)} bytes, not {table_size(size, length)}")
    segments: list[Segment] = []
    start = 0
    for number, (frame, digest) in enumerate(_ENTRY.iter_unpack(data[_HEAD.size :])):
        offset = number * length
        if frame > length + _OVERHEAD:
            raise ValueError(f"segment {number} has {frame} bytes")
        segments.append(Segment(offset, min(length, size - offset), start, frame, digest))
        start += frame
    if start != stored:
        raise ValueError(f"its frames have {start} bytes together, not {stored}")
    return tuple(segments)
