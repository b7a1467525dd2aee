"""The frames of a part: which bytes of an object are which bytes of a file, and what they must be.

A part is stored as a row of frames, each of :data:`FRAME` bytes of the file (the last one of
fewer), compressed alone or not at all. Beside it lies the index of these frames, so that each can
be fetched, verified and put in its place without the others. The index is bytes, big-endian::

    0   8   ``recastF1``
    8   4   bytes of the file that become one frame
    12  8   bytes of the file
    20  36  for each frame: 4 bytes with its size in the object, and the SHA-256 of its bytes in
            the file

A part of one frame needs no index: its own digest is that of the frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

FRAME = 8 << 20
"""Bytes of a file that become one frame; larger ones are not read."""

_MAGIC = b"recastF1"
_HEAD = struct.Struct(">8sIQ")
_ENTRY = struct.Struct(">I32s")
_OVERHEAD = (
    64 << 10
)  # bytes by which compression may make a frame larger; zstandard's bound is less


@dataclass(frozen=True, slots=True)
class Frame:
    """Some bytes of a file, and where they are stored.

    Attributes:
        offset, size: which bytes of the file.
        start, stored: which bytes of the object: the first one, and how many.
        digest: SHA-256 of the bytes of the file; 32 bytes.
    """

    offset: int
    size: int
    start: int
    stored: int
    digest: bytes


def index_size(size: int, frame: int = FRAME) -> int:
    """Bytes of the index of a file of *size* bytes."""
    return _HEAD.size + -(-size // frame) * _ENTRY.size


def write_index(size: int, entries: Sequence[tuple[int, bytes]], frame: int = FRAME) -> bytes:
    """The index of a file.

    Args:
        size: bytes of the file.
        entries: for each frame its size in the object, and its digest.
        frame: bytes of the file that became one frame.
    """
    assert len(entries) == -(-size // frame)
    return _HEAD.pack(_MAGIC, frame, size) + b"".join(_ENTRY.pack(*each) for each in entries)


def read_index(data: bytes, size: int, stored: int) -> tuple[Frame, ...]:
    """The frames that an index tells of, in order.

    Args:
        data: the index.
        size: bytes of the file.
        stored: bytes of the object that the frames are in.

    Raises:
        ValueError: it is no index, or that of another file; says why.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is cut")
    magic, length, told = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if told != size:
        raise ValueError(f"it is about {told} bytes, not {size}")
    if not 0 < length <= FRAME:
        raise ValueError(f"its frames have {length} bytes")
    if len(data) != index_size(size, length):
        raise ValueError(f"it has {len(data)} bytes, not {index_size(size, length)}")
    frames: list[Frame] = []
    start = 0
    for number, (packed, digest) in enumerate(_ENTRY.iter_unpack(data[_HEAD.size :])):
        offset = number * length
        if packed > length + _OVERHEAD:
            raise ValueError(f"frame {number} has {packed} bytes")
        frames.append(Frame(offset, min(length, size - offset), start, packed, digest))
        start += packed
    if start != stored:
        raise ValueError(f"its frames have {start} bytes together, not {stored}")
    return tuple(frames)
