"""Which files differ between two trees or two initrds: the answer when two builds are not equal."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import digest

_HEADER = 110  # bytes of a "newc" header, see cpio(5): magic, then thirteen hexadecimal fields
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Member:
    """One member of a cpio archive.

    Attributes:
        name: its name.
        header: the bytes before its name.
        content: its bytes.
        at: where its header begins, in bytes.
    """

    name: str
    header: bytes
    content: bytes
    at: int

    @property
    def told(self) -> bytes:
        """What its header says of it, without the size of the name.

        Zeros behind the name align the content, so that size follows from all that is in front.
        """
        return self.header[:94] + self.header[102:]

    @property
    def end(self) -> int:
        """Where its content ends."""
        return _up(self.at + _HEADER + _number(self.header[94:102])) + len(self.content)


def trees(left: Path, right: Path) -> list[str]:
    """Paths that differ in kind, content, target, mode, owner or extended attributes, with why."""
    ours, theirs = _entries(left), _entries(right)
    found = [f"{name}: only in the first build" for name in ours.keys() - theirs.keys()]
    found += [f"{name}: only in the second build" for name in theirs.keys() - ours.keys()]
    for name in ours.keys() & theirs.keys():
        differing = _differences(left / name, right / name)
        if ours[name] != theirs[name]:
            differing.append("hard links")
        if differing:
            found.append(f"{name}: {', '.join(differing)}")
    return sorted(found)


def initrds(left: bytes, right: bytes) -> list[str]:
    """Members of two plain cpio archives that differ in header or content, with why."""
    ours, theirs = (
        {each.name: (each.told, each.content) for each in members(archive)}
        for archive in (left, right)
    )
    found = [f"initrd:{name}: only in one build" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            what = "content" if ours[name][1] != theirs[name][1] else "mode, owner, time or number"
            found.append(f"initrd:{name}: {what}")
    if not found and left != right:
        found.append("initrd: order of its members, or padding")
    return sorted(found)


def members(archive: bytes) -> Iterator[Member]:
    """The members of all the plain cpio archives that follow one another.

    Ends at what is no plain archive: it has no members to name.
    """
    at = 0
    while archive[at : at + 6] in (b"070701", b"070702"):
        begin, header = at, archive[at : at + _HEADER]
        try:
            size, name_size = _number(header[54:62]), _number(header[94:102])
        except ValueError:
            return
        name_field = archive[at + _HEADER : at + _HEADER + name_size]
        name = name_field.split(b"\0", 1)[0].decode(errors="replace")
        start = _up(at + _HEADER + name_size)
        at = _up(start + size)
        if name == _TRAILER:
            at = _after_zeros(archive, at)
        else:
            yield Member(name, header, archive[start : start + size], begin)


def _entries(root: Path) -> dict[str, tuple[str, ...]]:
    """Every path in a tree, the tree itself included, with all names of the same file."""
    names: dict[tuple[int, int], list[str]] = {}
    for parent, folders, files in os.walk(root):
        for name in (".", *folders, *files) if parent == str(root) else (*folders, *files):
            path = Path(parent) / name
            info = path.lstat()
            relative = path.relative_to(root).as_posix()
            names.setdefault((info.st_dev, info.st_ino), []).append(relative)
    return {name: tuple(sorted(same)) for same in names.values() for name in same}


def _differences(left: Path, right: Path) -> list[str]:
    ours, theirs = left.lstat(), right.lstat()
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        return ["kind"]
    attributes = (("mode", "st_mode"), ("owner", "st_uid"), ("group", "st_gid"))
    differing = [what for what, name in attributes if getattr(ours, name) != getattr(theirs, name)]
    if stat.S_ISLNK(ours.st_mode) and os.readlink(left) != os.readlink(right):
        differing.append("target")
    if stat.S_ISREG(ours.st_mode) and (
        ours.st_size != theirs.st_size or digest.of_file(left) != digest.of_file(right)
    ):
        differing.append("content")
    if ours.st_rdev != theirs.st_rdev:
        differing.append("device")
    if _attributes(left) != _attributes(right):
        differing.append("extended attributes")
    return differing


def _attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _after_zeros(archive: bytes, at: int) -> int:
    """Early microcode and the rest are two archives with padding between them."""
    while at < len(archive) and not any(archive[at : at + 4]):
        at += 4
    return at


def _number(field: bytes) -> int:
    return int.from_bytes(bytes.fromhex(field.decode()))


def _up(value: int) -> int:
    return -(-value // 4) * 4
