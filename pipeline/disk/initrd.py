"""An initrd whose files begin on blocks: an unchanged file is unchanged blocks in an update.

Format: "newc" cpio archives one after another, zeros between them, anything compressed at the end;
see https://docs.kernel.org/driver-api/early-userspace/buffer-format.html. As cpio writes it, a
content lies at any multiple of four bytes, and a file that grows moves all that comes behind it.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from pipeline.disk.erofs import BLOCK
from pipeline.disk.tree import EPOCH
from pipeline.errors import BuildError

_HEADER_SIZE = 110
_HEADER = re.compile(rb"(07070[12])([0-9A-Fa-f]{104})")
_ZEROS = re.compile(rb"\0*")
_TRAILER = b"TRAILER!!!"
_PATH_MAX = 4096  # the kernel passes over a member with a longer name
_ARCHIVE_STEP = 512  # where cpio ends an archive
# What the kernel looks for before it unpacks anything: arch/x86/kernel/cpu/microcode/ and
# drivers/acpi/tables.c.
_EARLY = (b"kernel/x86/microcode/", b"kernel/firmware/acpi/")
# Of gzip (two), bzip2, lzma, xz, lzo, lz4, zstd: the kernel's lib/decompress.c.
_COMPRESSED = tuple(
    bytes.fromhex(magic) for magic in "1f8b 1f9e 425a 5d00 fd37 894c 0221 28b5".split()
)


class _Header(NamedTuple):
    """The fields of a header, by the names that the kernel's documentation gives them."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    filesize: int
    maj: int
    min: int
    rmaj: int
    rmin: int
    namesize: int
    chksum: int


@dataclass(frozen=True)
class _Member:
    magic: bytes
    header: _Header
    name: bytes  # without zeros
    data: memoryview
    end: int  # where it ends in the initrd, with its padding

    @property
    def is_last(self) -> bool:
        return self.name == _TRAILER


def align(initrd: bytes) -> bytes:
    """Let the content of every file of at least a block begin at a multiple of 4096 bytes.

    The name of such a file is followed by as many zeros as it takes, which are counted as part of
    the name. The kernel takes a name to end at the first zero and goes on behind the last
    (init/initramfs.c: ``do_header``, ``do_name``; ``initramfs_test_fname_pad`` in
    init/initramfs_test.c holds it to that), and GNU cpio and libarchive read it as well; dracut's
    own ``dracut-cpio --data-align`` makes the same. Nothing else is safe everywhere: zeros between
    two members are allowed too, but libarchive then loses members.

    A name field has at most 4096 bytes (``PATH_MAX``), so a content that would begin less than
    its name's length behind a block stays there: about one in a hundred. It still moves only when
    something between it and the file in front of it changes.

    Headers lie in blocks too: what is of chance in them, or counts all members in front, is set.
    Times become :data:`pipeline.disk.tree.EPOCH`; inode numbers, and the filesystem that a file was
    on, zero; hard links keep a number, which follows from the first name. Names, order, modes,
    owners, device nodes and contents stay.

    Left as they are: archives in front with what the kernel reads early, microcode and ACPI tables
    (lib/earlycpio.c takes padding for part of a name of at most 18 bytes), and all from the first
    compressed byte on.

    Args:
        initrd: what dracut made. An aligned one comes out as it is.

    Raises:
        BuildError: the kernel would not unpack all of it.
    """
    archives, rest = _split(initrd)
    if not archives and not rest:
        raise _damaged("it is empty")
    early = list(takewhile(_is_early, archives))
    out = bytearray(initrd[: early[-1][-1].end] if early else b"")
    _pad(out, _ARCHIVE_STEP)
    for members in archives[len(early) :]:
        for member in _settled(members):
            _append(out, member)
        _pad(out, _ARCHIVE_STEP)
    return bytes(out) + rest


def _is_early(members: Sequence[_Member]) -> bool:
    return any(member.name.startswith(_EARLY) for member in members)


def _split(initrd: bytes) -> tuple[list[list[_Member]], bytes]:
    """The members of each plain archive, its end included, and what follows the last archive."""
    view = memoryview(initrd)
    archives: list[list[_Member]] = []
    members: list[_Member] = []
    at = _skip_zeros(initrd, 0)
    while at < len(initrd):
        if initrd.startswith(_COMPRESSED, at) and not members:
            return archives, initrd[at:]
        member = _read(initrd, view, at)
        members.append(member)
        if member.is_last:
            archives.append(members)
            members = []
        at = _skip_zeros(initrd, member.end)
    if members:
        raise _damaged(f"its archive has no end ({_TRAILER.decode()}), so it is cut off")
    return archives, b""


def _read(initrd: bytes, view: memoryview, at: int) -> _Member:
    found = _HEADER.match(initrd, at)
    if found is None:
        raise _damaged(f"at byte {at} is neither the header of a cpio member nor compressed data")
    if at % 4:
        raise _damaged(f"a cpio member begins at byte {at}, which is no multiple of four")
    digits = found[2]
    header = _Header(*(int(digits[n : n + 8], 16) for n in range(0, len(digits), 8)))
    if not 0 < header.namesize <= _PATH_MAX:
        raise _damaged(f"the name of the member at byte {at} has {header.namesize} bytes")
    name_at = at + _HEADER_SIZE
    name = initrd[name_at : name_at + header.namesize]
    data_at = _up(name_at + header.namesize, 4)
    end = data_at + header.filesize
    if end > len(initrd):
        raise _damaged(f"it is cut off: the member at byte {at} goes on to byte {end}")
    if name[-1:] != b"\0":
        raise _damaged(f"the name of the member at byte {at} has no end")
    name = name.split(b"\0", 1)[0]
    return _Member(found[1], header, name, view[data_at:end], min(_up(end, 4), len(initrd)))


def _settled(members: Sequence[_Member]) -> list[_Member]:
    """The members of an archive with headers that depend on nothing but themselves."""
    names: defaultdict[tuple[int, ...], list[bytes]] = defaultdict(list)
    for member in members:
        if (key := _link_key(member.header)) is not None:
            names[key].append(member.name)
    taken: set[int] = set()
    links: dict[tuple[int, ...], tuple[int, int]] = {}
    for key, same in names.items():
        if len(same) > 1:
            number = zlib.crc32(same[0])
            while number in taken:
                number = (number + 1) % (1 << 32)
            taken.add(number)
            links[key] = number, len(same)
    settled = []
    for member in members:
        key = _link_key(member.header)
        number, count = links.get(key, (0, 1)) if key is not None else (0, 1)
        # One link for a folder too: readers other than the kernel look for its other names.
        header = member.header._replace(ino=number, nlink=count, mtime=EPOCH, maj=0, min=0)
        settled.append(replace(member, header=header))
    return settled


def _link_key(header: _Header) -> tuple[int, ...] | None:
    """What the names of one file have in common (``find_link`` in init/initramfs.c)."""
    if header.nlink < 2 or stat.S_ISDIR(header.mode):
        return None
    return header.maj, header.min, header.ino, stat.S_IFMT(header.mode)


def _append(out: bytearray, member: _Member) -> None:
    size = len(member.name) + 1
    if stat.S_ISREG(member.header.mode) and len(member.data) >= BLOCK:
        wanted = -(len(out) + _HEADER_SIZE) % BLOCK
        size = max(size, wanted)
    header = member.header._replace(namesize=size)
    out += member.magic + b"".join(b"%08X" % field for field in header)
    out += member.name.ljust(size, b"\0")
    _pad(out, 4)
    out += member.data
    _pad(out, 4)


def _skip_zeros(initrd: bytes, at: int) -> int:
    found = _ZEROS.match(initrd, at)
    return found.end() if found else at


def _pad(out: bytearray, step: int) -> None:
    out += bytes(-len(out) % step)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _damaged(what: str) -> BuildError:
    return BuildError(
        f"the initrd is not what a kernel unpacks: {what}",
        hint="dracut makes it, in the last step of the image's build; see that stage's log.",
    )
