"""Put a release's disk on a whole disk, so that a cut never leaves one that boots half-written.

First both ends of the disk are cleared, where its partition tables are: from then on no firmware
boots it. Then comes all but the first MiB. When the whole has been read back from the medium, and
has the digest that was signed, the first MiB follows: it is what makes it a disk that boots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.errors import DigestError, HostError
from pipeline.transfer.base import Filled, Target
from pipeline.transfer.fetch import read_object
from pipeline.transfer.source import StoreSource

if TYPE_CHECKING:
    from pipeline.agent.blocks import Disk
    from pipeline.command import Stop
    from pipeline.models.pointer import Extent, PublishedPart, PublishedRelease

ROLE = "disk"
HEAD = 1 << 20

Progress = Callable[[str, int, int], None]
"""Hears how a step (``write``, ``verify``) goes: its name, bytes done, bytes in all."""

_PIECE = 1 << 20
_BLOCK = 64 << 10  # what is compared before it is written
_UNSYNCED = 64 << 20
_ZEROS = bytes(_PIECE)


class Headless:
    """A disk whose first bytes are kept in memory; is a :class:`pipeline.transfer.base.Target`.

    Args:
        disk: the disk.
        size: bytes of what is written to it, in all.
    """

    def __init__(self, disk: Disk, size: int) -> None:
        self.head = bytearray(min(HEAD, size))
        self._disk = disk
        self._size = size

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly *size* bytes from *offset* on."""
        first = bytes(self.head[offset : offset + size])
        if len(first) == size:
            return first
        return first + self._disk.read(offset + len(first), size - len(first))

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*."""
        inside = max(0, min(len(self.head) - offset, len(data)))
        self.head[offset : offset + inside] = data[:inside]
        if inside < len(data):
            self._disk.write(offset + inside, data[inside:])

    def sync(self) -> None:
        """Return when all that is not kept back is on the medium."""
        self._disk.sync()


class _View:
    """A range of a target."""

    def __init__(self, target: Target, offset: int, size: int) -> None:
        self._target = target
        self._offset = offset
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        return self._target.read(self._offset + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._target.write(self._offset + offset, data)

    def sync(self) -> None:
        self._target.sync()


def write_disk(
    release: PublishedRelease,
    disk: Disk,
    source: StoreSource,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Filled:
    """Make the first bytes of *disk* those of the release's disk.

    What an earlier call left there is used again. Needs some MiB of memory for any size.

    Args:
        release: as signed metadata describes it.
        disk: at least as large as the part.
        source: brings the parts; what else the disk consists of comes from its store.
        progress: hears how it goes.
        stop: ends it when set; nothing boots from the disk then.

    Raises:
        DigestError: the store's bytes are not those that were signed, or the medium does not keep
            what is written; nothing boots from the disk then.
        MissingError, NetworkError: the store cannot be read; calling again goes on.
        DiskFullError, HostError: *disk* cannot be written, or is too small.
        Interrupted: *stop* was set.
    """
    part = require_disk(release)
    if disk.size < part.size:
        raise HostError(f"{disk.name} has {disk.size} bytes, and {part.size} are needed")
    extents = _checked_extents(release, part)
    _clear(disk, part.size)
    headless = Headless(disk, part.size)
    filled = _Writing(release, headless, source, progress, stop).run(extents)
    headless.sync()
    _verify(release, part, disk, headless, progress, stop)
    disk.write(0, bytes(headless.head))
    disk.sync()
    disk.forget(0, len(headless.head))
    if disk.read(0, len(headless.head)) != headless.head:
        _clear(disk, part.size)
        raise _not_kept(release, disk)
    return filled


def require_disk(release: PublishedRelease) -> PublishedPart:
    """The disk among a release's parts.

    Raises:
        HostError: there is none.
    """
    part = release.parts.get(ROLE)
    if part is None or (part.stored is None and part.extents is None):
        raise HostError(
            f"{release.name} was published without a disk: it can update a machine, and not make "
            "one",
            hint="Publish it again, from where it was built.",
        )
    return part


@dataclass
class _Writing:
    """One run over a disk, from its first byte to its last."""

    release: PublishedRelease
    target: Headless
    source: StoreSource
    progress: Progress | None
    stop: Stop | None
    filled: Filled = field(default_factory=Filled)
    unsynced: int = 0

    def run(self, extents: Sequence[Extent]) -> Filled:
        end = 0
        for extent in extents:
            self._zeros(end, extent.offset)
            self._extent(extent)
            end = extent.offset + extent.size
        self._zeros(end, self.target.size)
        return self.filled

    def _extent(self, extent: Extent) -> None:
        role = extent.part or ("" if extent.stored is not None else ROLE)
        if not role:
            self._stored(extent)
            return

        def heard(done: int, _fetched: int) -> None:
            self._heard(extent.offset + done)

        view = _View(self.target, extent.offset, extent.size)
        done = self.source.fill(self.release, role, view, (), progress=heard, stop=self.stop)
        self._count(done)

    def _stored(self, extent: Extent) -> None:
        assert extent.stored is not None
        at = extent.offset
        for piece in read_object(self.source.store, extent.stored, extent.size, self.stop):
            self._place(at, piece)
            at += len(piece)
        self._count(Filled(downloaded=extent.stored.size))

    def _zeros(self, start: int, end: int) -> None:
        for at in range(start, end, _PIECE):
            if self.stop is not None:
                self.stop.check()
            self._place(at, _ZEROS[: min(_PIECE, end - at)])

    def _place(self, offset: int, data: bytes) -> None:
        """Write of *data* what is not there yet."""
        try:
            held = self.target.read(offset, len(data))
        except HostError:  # a sector that cannot be read: writing may mend that
            held = b""
        for at in range(0, len(data), _BLOCK):
            block = data[at : at + _BLOCK]
            if held[at : at + _BLOCK] == block:
                continue
            self.target.write(offset + at, block)
            self._count(Filled(written=len(block)))
            self.unsynced += len(block)
        if self.unsynced >= _UNSYNCED:
            self.target.sync()
            self.unsynced = 0
        self._heard(offset + len(data))

    def _count(self, more: Filled) -> None:
        self.filled = replace(
            self.filled,
            downloaded=self.filled.downloaded + more.downloaded,
            reused=self.filled.reused + more.reused,
            written=self.filled.written + more.written,
        )

    def _heard(self, done: int) -> None:
        if self.progress is not None:
            self.progress("write", done, self.target.size)


def _checked_extents(release: PublishedRelease, part: PublishedPart) -> tuple[Extent, ...]:
    """What the disk consists of, in order; checked before a byte is written."""
    from pipeline.models.pointer import Extent

    if part.extents is None:
        return (Extent(offset=0, size=part.size),) if part.size else ()
    end = 0
    for extent in part.extents:
        inner = release.parts.get(extent.part or "")
        fits = inner is not None and inner.stored is not None and inner.size == extent.size
        known = extent.stored is not None if extent.part is None else fits
        if extent.offset < end or extent.offset + extent.size > part.size or not known:
            raise DigestError(
                f"the description of {release.name} does not say rightly what is at byte "
                f"{extent.offset} of its disk",
                hint="Publish the release again, from where it was built.",
            )
        end = extent.offset + extent.size
    return part.extents


def _clear(disk: Disk, size: int) -> None:
    """Leave nothing at the disk's ends that anybody could take for a partition table."""
    start = max(size, disk.size - HEAD)
    for at, length in ((0, min(HEAD, disk.size)), (start, disk.size - start)):
        if length:
            disk.write(at, bytes(length))
    disk.sync()


def _verify(
    release: PublishedRelease,
    part: PublishedPart,
    disk: Disk,
    headless: Headless,
    progress: Progress | None,
    stop: Stop | None,
) -> None:
    """Hold what the medium gives back against the digest that was signed."""
    hasher = hashlib.sha256()
    for at, length in _pieces(part.size):
        if stop is not None:
            stop.check()
        disk.forget(at, length)
        hasher.update(headless.read(at, length))
        if progress is not None:
            progress("verify", at + length, part.size)
    if hasher.hexdigest() != part.digest:
        raise _not_kept(release, disk)


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    for at in range(0, size, _PIECE):
        yield at, min(_PIECE, size - at)


def _not_kept(release: PublishedRelease, disk: Disk) -> DigestError:
    return DigestError(
        f"what {disk.name} gives back is not the disk of {release.name} that was signed; it was "
        "left so that nothing boots from it",
        hint="Try again; if it stays so, the medium does not keep what is written to it.",
    )
