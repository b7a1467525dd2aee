"""What is in an uncompressed EROFS, and where its bytes lie; for comparing images.

Format: https://docs.kernel.org/filesystems/erofs.html and ``fs/erofs/erofs_fs.h`` of Linux. Read
are images as mkfs.erofs makes them without compression: whole blocks of 4 KiB, with or without
the end of a file kept beside its inode. Nothing that an image says is believed: an offset must lie
within the file, and a folder is entered once.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from pipeline.errors import BuildError, HostError, UsageError
from pipeline.files import format_size

BLOCK = 4096
"""Bytes of a block, the only size that is read."""

SUPER = 1024
"""Where the superblock is, in bytes."""

MAGIC = 0xE0F5E1E2

MOST_ENTRIES = 2_000_000
"""Names in an image, at most: an operating system has a tenth of that."""

MOST_SHARED = 16
"""How often the blocks of an image may be used, on average: whoever reads it reads no more."""

_BLOCK_BITS = 12
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHB")
_CHECKSUMMED = 0x1  # compatible feature: the superblock has a CRC-32C
_HARMLESS = 0x1 | 0x40  # incompatible features: how LZ4 pads, long prefixes of attributes' names
_SPLIT = 0x4 | 0x8  # files in chunks, further devices; the latter has another meaning with LZ4
_SLOT = 32  # bytes that a number of an inode counts
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16s")
_FORMATS = 0xF  # bits of an inode's format that mean something here
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4
_XATTR_HEADER, _XATTR_UNIT = 12, 4
_DIRENT = struct.Struct("<QHBB")
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
_PIECE = 1 << 20  # bytes read at a time
_CRC32C = 0x82F63B78  # reversed polynomial


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in an image.

    Attributes:
        path: absolute; bytes that are no text as :func:`os.fsdecode` gives them.
        inode: the number of its inode; names of one file share it.
        mode: kind and permissions, as in :mod:`stat`.
        uid, gid: its owner.
        size: bytes.
        device: of a device file, as ``(major, minor)``.
        start: the block that its content begins at.
        blocks: how many blocks follow one another there.
        tail: where the rest of its content is, kept beside the inode, in bytes from the start of
            the image; 0 if there is none.
    """

    path: str
    inode: int
    mode: int
    uid: int
    gid: int
    size: int
    device: tuple[int, int]
    start: int
    blocks: int
    tail: int

    @property
    def tail_size(self) -> int:
        """Bytes that are kept beside the inode."""
        return self.size - self.blocks * BLOCK if self.tail else 0


class ErofsReader:
    """An open image.

    Args:
        path: the file.

    Raises:
        UsageError: it is no EROFS, or a kind that is not read here: compressed, for one.
        BuildError: it is damaged.
        HostError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._size = os.fstat(self._handle).st_size
            self._read_superblock()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> ErofsReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def entries(self) -> Iterator[Entry]:
        """Everything in the image, each folder before what is in it; the root is ``/``.

        Raises:
            BuildError: the image is damaged.
            UsageError: a file in it is kept in a way that is not read here.
            HostError: it cannot be read.
        """
        root = self._entry("/", self._root)
        if not stat.S_ISDIR(root.mode):
            self._damaged("its root is no folder")
        seen, waiting, count, held = {root.inode}, [root], 0, 0
        while waiting:
            folder = waiting.pop()
            yield folder
            inner: list[Entry] = []
            for name, inode in self._names(folder):
                count += 1
                path = f"{folder.path.rstrip('/')}/{name}"
                if count > MOST_ENTRIES or len(path) > _LONGEST_PATH:
                    self._damaged("it holds more names, or longer ones, than any system has")
                entry = self._entry(path, inode)
                held += entry.size if inode not in seen else 0
                if held > MOST_SHARED * self._size:
                    self._damaged("its files are many times larger than the image")
                if not stat.S_ISDIR(entry.mode):
                    yield entry
                elif inode in seen:
                    self._damaged(f"it has a folder in two places: {path!r} is one")
                else:
                    inner.append(entry)
                seen.add(inode)
            waiting += reversed(inner)

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """The content of a file, or of a symbolic link, in pieces of at most 1 MiB.

        Raises:
            BuildError: the image ends before.
            HostError: it cannot be read.
        """
        left = entry.size - entry.tail_size
        at = entry.start * BLOCK
        while left:
            piece = self._read(at, min(left, _PIECE), "a file")
            yield piece
            at, left = at + len(piece), left - len(piece)
        if entry.tail:
            yield self.tail(entry)

    def tail(self, entry: Entry) -> bytes:
        """What of a file is kept beside its inode.

        Raises:
            HostError: it cannot be read.
        """
        return self._read(entry.tail, entry.tail_size, "the end of a file")

    def target(self, entry: Entry) -> bytes:
        """Where a symbolic link leads.

        Raises:
            BuildError: it is too long for one.
            HostError: it cannot be read.
        """
        if entry.size > _LONGEST_PATH:
            self._damaged(f"the symbolic link {entry.path!r} has {entry.size:,} bytes")
        return b"".join(self.stream(entry))

    def _read_superblock(self) -> None:
        data = self._head()
        if len(data) < SUPER + 128 or int.from_bytes(data[SUPER : SUPER + 4], "little") != MAGIC:
            raise UsageError(f"{self._path} is no EROFS image")
        fields = _SUPERBLOCK.unpack_from(data, SUPER)
        _magic, checksum, compatible, bits, _slots, root = fields[:6]
        blocks, self._meta = fields[9], fields[10]
        incompatible, folder_bits = fields[14], fields[18]
        self._root = root
        if bits != _BLOCK_BITS or folder_bits:
            self._foreign("it has blocks of another size than 4 KiB")
        if incompatible & ~_HARMLESS:
            self._refuse_features(incompatible)
        if compatible & _CHECKSUMMED:
            block = bytearray(data[SUPER:])
            block[4:8] = bytes(4)
            if len(data) < BLOCK or _crc32c(bytes(block)) != checksum:
                self._damaged("its superblock has another checksum than it says")
        if blocks > self._blocks:
            size, there = format_size(blocks * BLOCK), format_size(self._size)
            self._damaged(f"it is cut off: of {size} there are {there}")

    def _head(self) -> bytes:
        return self._read(0, min(self._size, BLOCK), "its superblock")

    @property
    def _blocks(self) -> int:
        """Blocks of the file; the last one may be short."""
        return -(-self._size // BLOCK)

    def _refuse_features(self, bits: int) -> NoReturn:
        if bits & ~(_HARMLESS | _SPLIT):
            self._foreign("it is compressed, or of a newer kind")
        self._foreign("its files are kept in chunks, or on several devices")

    def _entry(self, path: str, inode: int) -> Entry:
        at = self._meta * BLOCK + inode * _SLOT
        head = self._read(at, _SLOT, "an inode")
        form = int.from_bytes(head[:2], "little")
        if form & ~_FORMATS:
            self._foreign(f"{path!r} has an inode of a newer kind")
        if form & 1:
            fields = _EXTENDED.unpack(self._read(at, _EXTENDED.size, "an inode"))
            _form, xattrs, mode, _reserved, size, where, _number, uid, gid = fields[:9]
            length = _EXTENDED.size
        else:
            fields = _COMPACT.unpack(head)
            _form, xattrs, mode, _links, size, _reserved, where, _number, uid, gid, _ = fields
            length = _COMPACT.size
        layout = form >> 1
        if layout not in (_PLAIN, _INLINE):
            how = "is kept in chunks" if layout == _CHUNKED else "is compressed"
            self._foreign(f"{path!r} {how}")
        kind = stat.S_IFMT(mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            if kind not in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
                self._damaged(f"{path!r} is of no known kind")
            device = _device(where) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0)
            return Entry(path, inode, mode, uid, gid, 0, device, 0, 0, 0)
        behind = at + length + (_XATTR_HEADER + (xattrs - 1) * _XATTR_UNIT if xattrs else 0)
        start, blocks, tail = self._place(path, layout, size, where, behind)
        return Entry(path, inode, mode, uid, gid, size, (0, 0), start, blocks, tail)

    def _place(
        self, path: str, layout: int, size: int, where: int, behind: int
    ) -> tuple[int, int, int]:
        """Where content begins, how many blocks it has there, and where its tail is.

        Args:
            path: for messages.
            layout: how content is kept.
            size: its bytes.
            where: the block that the inode names.
            behind: where the inode ends, in bytes.
        """
        if not size:
            return 0, 0, 0
        blocks = -(-size // BLOCK)
        tail = 0
        if layout == _INLINE:
            blocks -= 1
            rest = size - blocks * BLOCK
            if behind % BLOCK + rest > BLOCK or behind + rest > self._size:
                self._damaged(f"the end of {path!r} lies beyond its block")
            tail = behind
        if blocks and where * BLOCK + (blocks * BLOCK if tail else size) > self._size:
            self._damaged(f"the content of {path!r} lies beyond its end")
        return (where if blocks else 0), blocks, tail

    def _names(self, folder: Entry) -> Iterator[tuple[str, int]]:
        """Names in a folder, each with the number of its inode; without ``.`` and ``..``."""
        for piece in self.stream(folder):
            for start in range(0, len(piece), BLOCK):
                yield from self._listed(folder.path, piece[start : start + BLOCK])

    def _listed(self, path: str, block: bytes) -> Iterator[tuple[str, int]]:
        if len(block) < _DIRENT.size:
            self._damaged(f"the folder {path!r} ends within an entry")
        first = int.from_bytes(block[8:10], "little")
        count, odd = divmod(first, _DIRENT.size)
        if odd or not 0 < first <= len(block):
            self._damaged(f"the folder {path!r} has entries that cannot be")
        rows = [_DIRENT.unpack_from(block, n * _DIRENT.size) for n in range(count)]
        ends = [row[1] for row in rows[1:]] + [len(block)]
        for (inode, start, _kind, _reserved), end in zip(rows, ends, strict=True):
            if not first <= start < end <= len(block):
                self._damaged(f"the folder {path!r} has names that lie beyond it")
            name = block[start:end].partition(b"\0")[0]
            if not 0 < len(name) <= _LONGEST_NAME or b"/" in name:
                self._damaged(f"the folder {path!r} has a name that cannot be")
            if name not in (b".", b".."):
                yield os.fsdecode(name), inode

    def _read(self, at: int, size: int, what: str) -> bytes:
        if at + size > self._size:
            self._damaged(f"{what} lies beyond its end")
        try:
            data = os.pread(self._handle, size, at)
        except OSError as error:
            raise HostError(f"{self._path} cannot be read: {error.strerror}") from error
        if len(data) < size:
            self._damaged(f"{what} lies beyond its end")
        return data

    def _damaged(self, why: str) -> NoReturn:
        raise BuildError(
            f"{self._path} is damaged: {why}",
            hint=f"`fsck.erofs {self._path}` may tell more; build the image again.",
        )

    def _foreign(self, why: str) -> NoReturn:
        raise UsageError(
            f"{self._path} cannot be looked into: {why}",
            hint="Read are images as `recast build` makes them: uncompressed, in 4 KiB blocks.",
        )


def _device(number: int) -> tuple[int, int]:
    """Linux's own 32 bits: 12 of the major number amid 20 of the minor one."""
    return number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00


def _crc32c(data: bytes) -> int:
    """As the superblock has it: the register, not inverted at the end."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (_CRC32C if register & 1 else 0)
    return register
