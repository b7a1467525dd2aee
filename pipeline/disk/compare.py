"""Which files differ between two trees or two initrds: the answer when two builds are not equal."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline import digest

_HEADER = 110  # bytes of a "newc" header, see cpio(5): magic, then thirteen hexadecimal fields
_TRAILER = "TRAILER!!!"


def trees(left: Path, right: Path) -> list[str]:
    """Paths that differ in kind, content, target, mode, owner or extended attributes, with why."""
    ours, theirs = _entries(left), _entries(right)
    found = [f"{name}: only in the first build" for name in ours.keys() - theirs.keys()]
    found += [f"{name}: only in the second build" for name in theirs.keys() - ours.keys()]
    for name in ours.keys() & theirs.keys():
        if what := _difference(left / name, right / name):
            found.append(f"{name}: {what}")
    return sorted(found)


def initrds(left: bytes, right: bytes) -> list[str]:
    """Members of two plain cpio archives that differ in header or content, with why."""
    ours, theirs = dict(_members(left)), dict(_members(right))
    found = [f"initrd:{name}: only in one build" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            what = "content" if ours[name][1] != theirs[name][1] else "mode, owner, time or number"
            found.append(f"initrd:{name}: {what}")
    if not found and left != right:
        found.append("initrd: order of its members, or padding")
    return sorted(found)


def _entries(root: Path) -> dict[str, None]:
    found: dict[str, None] = {}
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            found[(Path(parent) / name).relative_to(root).as_posix()] = None
    return found


def _difference(left: Path, right: Path) -> str:
    ours, theirs = left.lstat(), right.lstat()
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        return "kind"
    if stat.S_ISLNK(ours.st_mode):
        return "target" if os.readlink(left) != os.readlink(right) else ""
    differing = []
    for what, attribute in (("mode", "st_mode"), ("owner", "st_uid"), ("group", "st_gid")):
        if getattr(ours, attribute) != getattr(theirs, attribute):
            differing.append(what)
    if stat.S_ISREG(ours.st_mode):
        same = ours.st_size == theirs.st_size and digest.of_file(left) == digest.of_file(right)
        if not same:
            differing.append("content")
        if ours.st_nlink != theirs.st_nlink:
            differing.append("hard links")
    if _attributes(left) != _attributes(right):
        differing.append("extended attributes")
    return ", ".join(differing)


def _attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def _members(archive: bytes) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    at = 0
    while archive[at : at + 6] in (b"070701", b"070702"):
        header = archive[at : at + _HEADER]
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        name = archive[at + _HEADER : at + _HEADER + name_size - 1].decode(errors="replace")
        if name == _TRAILER:
            return
        start = _up(at + _HEADER + name_size)
        yield name, (header, archive[start : start + size])
        at = _up(start + size)


def _up(value: int) -> int:
    return -(-value // 4) * 4
