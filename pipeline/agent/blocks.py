"""A machine's disk as bytes at offsets, and a view of a part of it.

Everything goes through the whole disk, partitions included: one file, one page cache, and one
order of writes, which a test can cut at any of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline.errors import DiskFullError, HostError
from pipeline.transfer.base import Target

_LARGEST_READ = 1 << 20


class Disk(Target, Protocol):
    """A disk that can be read from the medium, past what is kept of it in memory."""

    @property
    def name(self) -> str:
        """What a person knows it by: its path."""

    def forget(self, offset: int, size: int) -> None:
        """Have the next read there come from the medium. Unwritten data begins to be written.

        Raises:
            HostError: the medium failed.
        """

    def locked(self) -> AbstractContextManager[None]:
        """Keep others (udev) from reading the partition table while it is edited.

        Raises:
            HostError: it cannot be locked.
        """


class FileDisk:
    """A block device, or an image of one in a file.

    It is opened for writing at the first write: udev looks at a disk anew whenever somebody closes
    it who could have written, and mere looks need not wake it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._writable: int | None = None
        with self._told("open"):
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.lseek(self._handle, 0, os.SEEK_END)

    def close(self) -> None:
        """Let it go; what was not synced is written sooner or later."""
        os.close(self._handle)
        if self._writable is not None:
            os.close(self._writable)

    def __enter__(self) -> FileDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly *size* bytes; see :class:`pipeline.transfer.base.Readable`."""
        with self._told("read", offset):
            data = os.pread(self._handle, size, offset)
            if len(data) < size:
                pieces = [data]
                while sum(map(len, pieces)) < size:
                    at = offset + sum(map(len, pieces))
                    piece = os.pread(self._handle, min(offset + size - at, _LARGEST_READ), at)
                    if not piece:
                        raise HostError(f"{self.name} ends at {at} bytes, before what is read")
                    pieces.append(piece)
                data = b"".join(pieces)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write at *offset*; see :class:`pipeline.transfer.base.Target`."""
        if offset < 0 or offset + len(data) > self._size:
            raise HostError(f"{self.name} has {self._size} bytes: nothing is written past them")
        view = memoryview(data)
        with self._told("write", offset):
            handle = self._to_write()
            while view:
                done = os.pwrite(handle, view, offset)
                view = view[done:]
                offset += done

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        with self._told("sync"):
            os.fdatasync(self._handle)  # its size never changes

    def forget(self, offset: int, size: int) -> None:
        """Drop what memory holds of a range that is on the medium; start to write what is not."""
        with self._told("read", offset):
            os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that udev asks for, too: https://systemd.io/BLOCK_DEVICE_LOCKING/."""
        # The lock is that of an open file: this one stays open for longer than the edit.
        with self._told("lock"):
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _to_write(self) -> int:
        with self._writing:
            if self._writable is None:
                self._writable = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            return self._writable

    @contextlib.contextmanager
    def _told(self, what: str, offset: int | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = "" if offset is None else f" at byte {offset}"
            reason = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"no space is left for {self.name}") from error
            raise HostError(
                f"cannot {what} the disk {self.name}{where}: {reason}",
                hint="See the kernel's messages (`journalctl -k`): the disk or its cable may be "
                "failing.",
            ) from error


class Part:
    """A range of a disk, such as a partition; is a :class:`pipeline.transfer.base.Target`."""

    def __init__(self, disk: Disk, offset: int, size: int) -> None:
        self._disk = disk
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly *size* bytes from *offset* of this range."""
        self._check(offset, size)
        return self._disk.read(self._offset + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset* of this range."""
        self._check(offset, len(data))
        self._disk.write(self._offset + offset, data)

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        self._disk.sync()

    def forget(self, offset: int, size: int) -> None:
        """Have the next read there come from the medium."""
        self._check(offset, size)
        self._disk.forget(self._offset + offset, size)

    def first(self, size: int) -> Part:
        """Its first *size* bytes.

        Raises:
            HostError: it has fewer.
        """
        self._check(0, size)
        return Part(self._disk, self._offset, size)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self._size:
            raise HostError(
                f"{size} bytes at {offset} are not within a part of {self._size} bytes of "
                f"{self._disk.name}"
            )
