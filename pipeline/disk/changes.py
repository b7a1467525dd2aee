"""Which files of an image cost a machine something that has another one, and why.

What costs is blocks: one that the old image holds anywhere need not be downloaded, wherever the new
one has it. So a file that only moved costs nothing, and one byte more at the front of a large file
costs all of it.
"""

from __future__ import annotations

import hashlib
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.disk.compare import members
from pipeline.disk.erofs_reader import BLOCK, MAGIC, SUPER, Entry, ErofsReader
from pipeline.disk.uki import locate_sections
from pipeline.errors import BuildError, HostError, UsageError
from pipeline.files import format_size

LARGEST_UKI = 512 << 20
"""Bytes of a boot file that are read into memory, at most."""

_DIGEST = 16  # bytes; nobody gains from a collision here
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class FileChange:
    """One file that is not what it was.

    Attributes:
        path: where it is.
        old: its bytes in the old image; None if it was not there.
        new: its bytes in the new image; None if it is gone.
        cost: bytes of its blocks that the old image holds nowhere, each counted once.
        why: what happened to it.
    """

    path: str
    old: int | None
    new: int | None
    cost: int
    why: str


@dataclass(frozen=True)
class Changes:
    """What differs between two images.

    Attributes:
        files: what changed, the dearest first.
        metadata: bytes of new blocks that belong to no file: inodes, folders, headers.
        total: bytes of all new blocks.
        size: bytes of the new image.
    """

    files: tuple[FileChange, ...]
    metadata: int
    total: int
    size: int


NO_CHANGES = Changes((), 0, 0, 0)
"""Between a file and itself; its size does not matter then."""


def kind_of(path: Path) -> str:
    """``root`` or ``uki``: what a file is, by its first bytes.

    Raises:
        UsageError: it is neither.
        HostError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(SUPER + 4)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error
    if start[SUPER:] == MAGIC.to_bytes(4, "little"):
        return "root"
    if start[:2] == b"MZ":
        return "uki"
    raise UsageError(
        f"{path} is neither a root image nor a boot file",
        hint="Compared are files such as `….root.erofs` and `….efi`.",
    )


def root_changes(old: Path, new: Path) -> Changes:
    """What it takes to get from one root image to another.

    Raises:
        UsageError: one of them is no EROFS, or of a kind that is not read here.
        BuildError: one of them is damaged.
        HostError: one of them cannot be read.
    """
    with ErofsReader(old) as left, ErofsReader(new) as right:
        before = {entry.path: entry for entry in left.entries()}
        after = sorted(right.entries(), key=lambda entry: entry.path)
        return _Roots(_Side(left, _digests(old)), _Side(right, _digests(new))).compare(
            before, after
        )


def uki_changes(old: Path, new: Path) -> Changes:
    """What it takes to get from one boot file to another, by section and by file of the initrd.

    Raises:
        UsageError: one of them is too large.
        BuildError: one of them is no boot file.
        HostError: one of them cannot be read.
    """
    left, right = _whole(old), _whole(new)
    before = {span.path: span.content for span in _spans(left)}
    spans = sorted(_spans(right), key=lambda span: (span.start, -span.end))
    fresh = _Fresh(_digests(old))
    charged: dict[str, int] = {}
    changed = {s.path for s in spans if before.get(s.path) != s.content}
    for number, digest in enumerate(_digests(new)):
        if fresh.take(digest):
            path = _charge(spans, changed, number * BLOCK)
            charged[path] = charged.get(path, 0) + 1
    there = {span.path for span in spans}
    files = [
        FileChange(path, len(content), None, 0, "removed: costs nothing")
        for path, content in before.items()
        if path not in there
    ]
    for span in spans:
        count = charged.pop(span.path, 0)
        if count or (span.path in changed and not span.outer):
            size = len(before[span.path]) if span.path in before else None
            why = _why(span, count, changed=span.path in changed, new=size is None)
            files.append(FileChange(span.path, size, len(span.content), count * BLOCK, why))
    rest = sum(charged.values()) * BLOCK
    return Changes(_ordered(files), rest, fresh.count * BLOCK, len(right))


class _Fresh:
    """Blocks that the old image holds nowhere; each is taken once.

    Attributes:
        count: how many were taken.
    """

    def __init__(self, known: Iterable[bytes]) -> None:
        # What is zero is never sent.
        self._known = {*known, _digest(bytes(BLOCK))}
        self._taken: set[bytes] = set()

    @property
    def count(self) -> int:
        return len(self._taken)

    def is_new(self, digest: bytes) -> bool:
        return digest not in self._known

    def take(self, digest: bytes) -> bool:
        if digest in self._known or digest in self._taken:
            return False
        self._taken.add(digest)
        return True


@dataclass(frozen=True)
class _Side:
    reader: ErofsReader
    blocks: Sequence[bytes]

    def of(self, entry: Entry) -> Sequence[bytes]:
        """The digests of the blocks of a file."""
        return self.blocks[entry.start : entry.start + entry.blocks]

    def tail(self, entry: Entry) -> bytes:
        """What of a file is kept beside its inode."""
        return self.reader.tail(entry) if entry.tail else b""


class _Roots:
    """Two root images."""

    def __init__(self, old: _Side, new: _Side) -> None:
        self.old, self.new = old, new
        self.fresh = _Fresh(old.blocks)
        self._first: dict[int, str] = {}  # path by inode

    def compare(self, before: dict[str, Entry], after: Sequence[Entry]) -> Changes:
        """Everything that changed, by what is in both."""
        files = [found for entry in after if (found := self._look(before, entry)) is not None]
        there = {entry.path for entry in after}
        files += [
            FileChange(path, entry.size, None, 0, "removed: costs nothing")
            for path, entry in before.items()
            if path not in there and not stat.S_ISDIR(entry.mode)
        ]
        by_files = self.fresh.count
        for digest in self.new.blocks:
            self.fresh.take(digest)
        metadata = self.fresh.count - by_files
        total = self.fresh.count * BLOCK
        return Changes(_ordered(files), metadata * BLOCK, total, self.new.reader.size)

    def _look(self, before: dict[str, Entry], entry: Entry) -> FileChange | None:
        """What became of one file; None if nothing did."""
        old = before.get(entry.path)
        if stat.S_ISDIR(entry.mode):
            why = _attributes(old, entry) if old is not None else ""
            return FileChange(entry.path, 0, 0, 0, f"metadata: {why}") if why else None
        size = old.size if old is not None else None
        first = self._first.setdefault(entry.inode, entry.path)
        cost = self._cost(entry) if first == entry.path else 0
        if first != entry.path and (old is None or not self._same(old, entry)):
            why = "a link: costs nothing"
        elif old is None or stat.S_IFMT(old.mode) != stat.S_IFMT(entry.mode):
            was = f", was {_KINDS[stat.S_IFMT(old.mode)]}" if old is not None else ""
            why = self._why_new(entry, cost) + was
        elif not self._same(old, entry):
            why = self._why_changed(entry, cost)
        else:
            why = _attributes(old, entry)
            if not why:
                return None
            why = f"metadata: {why}"
        return FileChange(entry.path, size, entry.size, cost * BLOCK, why)

    def _cost(self, entry: Entry) -> int:
        return sum(self.fresh.take(digest) for digest in self.new.of(entry))

    def _why_new(self, entry: Entry, cost: int) -> str:
        if not stat.S_ISREG(entry.mode) or not entry.blocks:
            return "new, within the metadata"
        return self._alike(entry, cost) or _told(cost, entry.blocks, new=True)

    def _why_changed(self, entry: Entry, cost: int) -> str:
        if stat.S_ISLNK(entry.mode):
            return "metadata: target"
        if not entry.blocks or (entry.tail and not cost):
            return "changed, within the metadata"
        return self._alike(entry, cost) or _told(cost, entry.blocks, new=False)

    def _alike(self, entry: Entry, cost: int) -> str:
        """Does it cost nothing because another new file has the same new blocks?"""
        if cost or not any(map(self.fresh.is_new, self.new.of(entry))):
            return ""
        return "as another: costs nothing"

    def _same(self, old: Entry, new: Entry) -> bool:
        if (old.size, old.blocks, old.device) != (new.size, new.blocks, new.device):
            return False
        if stat.S_ISLNK(new.mode):
            return self.old.reader.target(old) == self.new.reader.target(new)
        return self.old.of(old) == self.new.of(new) and self.old.tail(old) == self.new.tail(new)


@dataclass(frozen=True)
class _Span:
    """A piece of a boot file; *outer* if other pieces lie in it."""

    path: str
    start: int
    end: int
    content: bytes
    outer: bool = False

    @property
    def blocks(self) -> int:
        """How many blocks it touches."""
        return -(-self.end // BLOCK) - self.start // BLOCK if self.end > self.start else 0


def _spans(uki: bytes) -> Iterator[_Span]:
    places = locate_sections(uki)
    if sum(end - start for start, end in places.values()) > len(uki):
        raise BuildError("the sections of a boot file lie over one another: it is damaged")
    for name, (start, end) in places.items():
        content = uki[start:end]
        inner = list(members(content)) if name == ".initrd" else []
        yield _Span(name, start, end, content, outer=bool(inner))
        for each in inner:
            path = f"initrd:/{each.name.removeprefix('./').lstrip('/')}"
            yield _Span(path, start + each.at, start + each.end, each.content)


def _charge(spans: Sequence[_Span], changed: set[str], at: int) -> str:
    """Which piece a new block is charged to: the first that changed of those it touches."""
    end = bisect_right(spans, at + BLOCK - 1, key=lambda span: span.start)
    touched: list[_Span] = []
    for span in reversed(spans[:end]):
        if span.end > at:
            touched.append(span)
        if not span.outer and span.end <= at:
            break  # pieces follow one another
    touched.sort(key=lambda span: (span.outer, span.path not in changed, span.start))
    return touched[0].path if touched else ""


def _why(span: _Span, count: int, *, changed: bool, new: bool) -> str:
    if not changed:
        return f"shifted: {count} of {span.blocks} blocks"
    if not count:
        return f"{'new' if new else 'changed'}, in shared blocks"
    return _told(count, span.blocks, new=new)


def _told(count: int, blocks: int, *, new: bool) -> str:
    if new:
        if not count:
            return "moved: costs nothing"
        return "new" if count == blocks else f"new: {count} of {blocks} blocks"
    if not count:
        return "changed: costs nothing"
    return f"changed {count} of {blocks} blocks"


def _attributes(old: Entry, new: Entry) -> str:
    if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        return "kind"
    words = (
        ("mode", old.mode != new.mode),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
    )
    return ", ".join(word for word, differs in words if differs)


def _ordered(files: Iterable[FileChange]) -> tuple[FileChange, ...]:
    return tuple(sorted(files, key=lambda each: (-each.cost, each.path)))


def _whole(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_UKI:
            raise UsageError(f"{path} has {format_size(size)}: no boot file is as large")
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error


def _digests(path: Path) -> list[bytes]:
    """The digest of each block of a file; the last one is filled up with zeros."""
    found: list[bytes] = []
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                view = memoryview(piece + bytes(-len(piece) % BLOCK))
                found += [_digest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error
    return found


def _digest(block: bytes | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST).digest()
