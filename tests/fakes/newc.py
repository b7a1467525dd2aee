"""Writes cpio archives of the kind that a kernel unpacks ("newc"), and unpacks them as it does."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

HEADER = 110  # bytes: a magic of six, and thirteen fields of eight hexadecimal digits
PATH_MAX = 4096
TRAILER = "TRAILER!!!"


def member(
    name: str,
    data: bytes = b"",
    mode: int = 0o100644,
    *,
    number: int = 1,
    links: int = 1,
    time: int = 0,
    owner: tuple[int, int] = (0, 0),
    device: tuple[int, int] = (0, 0),
    checked: bool = False,
    zeros: int = 1,
) -> bytes:
    """One member; *checked*: with a checksum, *zeros*: behind its name."""
    raw = name.encode("utf-8", "surrogateescape") + bytes(zeros)
    total = sum(data) & 0xFFFFFFFF if checked else 0
    fields = (number, mode, *owner, links, time, len(data), 0, 0, *device, len(raw), total)
    header = (b"070702" if checked else b"070701") + b"".join(b"%08X" % field for field in fields)
    return _padded(header + raw) + _padded(data)


def archive(*members: bytes, step: int = 4) -> bytes:
    """An archive of *members*, with its end; its size is a multiple of *step*."""
    whole = b"".join(members) + member(TRAILER, mode=0, number=0)
    return whole + bytes(-len(whole) % step)


class Piece(NamedTuple):
    """A member as it lies in an archive."""

    name: bytes
    at: int  # where its header is
    data_at: int
    data: bytes
    fields: tuple[int, ...]

    @property
    def mode(self) -> int:
        return self.fields[1]


class Entry(NamedTuple):
    """What a path is after unpacking."""

    mode: int
    owner: tuple[int, int]
    device: tuple[int, int]
    data: bytes
    names: tuple[bytes, ...]  # of the same file


@dataclass(eq=False)
class _Node:
    mode: int
    owner: tuple[int, int]
    device: tuple[int, int]
    data: bytes
    names: list[bytes]


def pieces(initrd: bytes) -> Iterator[Piece]:
    """All members, the ends of archives included; an AssertionError is a kernel's refusal."""
    at = 0
    while at < len(initrd):
        if not initrd[at]:
            at += 1
            continue
        if initrd[at : at + 1] != b"0":
            return  # compressed
        assert at % 4 == 0, "broken padding"
        assert initrd[at : at + 6] in (b"070701", b"070702"), "no cpio magic"
        digits = initrd[at + 6 : at + HEADER].decode()
        fields = tuple(int(digits[n : n + 8], 16) for n in range(0, 104, 8))
        size, name_size = fields[6], fields[11]
        assert 0 < name_size <= PATH_MAX, "passed over"
        raw = initrd[at + HEADER : at + HEADER + name_size]
        assert raw[-1] == 0, "name without an end"
        data_at = at + HEADER + ((name_size + 1) & ~3) + 2  # N_ALIGN
        data = initrd[data_at : data_at + size]
        assert len(data) == size
        yield Piece(raw[: raw.index(0)], at, data_at, data, fields)
        at = -(-(data_at + size) // 4) * 4


def unpacked(initrd: bytes) -> dict[bytes, Entry]:
    """The tree that a kernel makes of *initrd*, after its init/initramfs.c; in that order."""
    tree: dict[bytes, _Node] = {}
    links: dict[tuple[int, ...], _Node] = {}
    for piece in pieces(initrd):
        number, mode, uid, gid, count, _, _, major, minor, *device = piece.fields[:11]
        if piece.name == TRAILER.encode():
            links.clear()
            continue
        new = _Node(mode, (uid, gid), (device[0], device[1]), piece.data, [])
        node = new
        if count >= 2 and not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
            node = links.setdefault((number, major, minor, stat.S_IFMT(mode)), new)
        if node is not new and stat.S_ISREG(mode):
            node.mode, node.owner = mode, (uid, gid)
            node.data = piece.data or node.data
        node.names.append(piece.name)
        tree[piece.name] = node
    return {
        name: Entry(node.mode, node.owner, node.device, node.data, tuple(node.names))
        for name, node in tree.items()
    }


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
