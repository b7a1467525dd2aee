"""The files of the EFI system partition, on a filesystem that promises little.

FAT has no journal: until it was synced, a file's name, its length, where it lies and what lies
there reach the medium in any order or not at all, and so do the two halves of a rename. Whoever
writes here therefore renames nothing that matters, gives a file its final name at once, and lets
nothing point to it before it was synced and read back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pipeline.errors import DiskFullError, HostError
from pipeline.transfer.base import Target


class Esp(Protocol):
    """The files of an ESP, by paths such as ``loader/entries/recast-7.conf``.

    Changes are on the medium after :meth:`sync`, not before.
    """

    @property
    def name(self) -> str:
        """What a person knows it by: where it is mounted."""

    def files(self, folder: str) -> tuple[str, ...]:
        """Names of the files in a folder, sorted; none if there is no such folder.

        Raises:
            HostError: it cannot be read.
        """

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none.

        Raises:
            HostError: it cannot be read.
        """

    def read(self, path: str, offset: int = 0, size: int = 1 << 16) -> bytes:
        """At most *size* bytes of a file from *offset* on; fewer at its end.

        Raises:
            HostError: it cannot be read.
        """

    def target(self, path: str, size: int) -> EspFile:
        """A file of *size* bytes to be filled; what is there of it is kept. Made if need be.

        Raises:
            DiskFullError: there is no room.
            HostError: it cannot be written.
        """

    def remove(self, path: str) -> None:
        """Remove a file; none is fine.

        Raises:
            HostError: it cannot be written.
        """

    def rename(self, old: str, new: str) -> None:
        """Give a file another name in its folder.

        Raises:
            HostError: it cannot be written.
        """

    def sync(self) -> None:
        """Return when all changes are on the medium.

        Raises:
            HostError: the medium failed.
        """

    def free(self) -> int:
        """Bytes that are free.

        Raises:
            HostError: it cannot be read.
        """

    def room(self, size: int) -> int:
        """Bytes that a file of *size* bytes takes: whole clusters."""


class EspFile(Target, Protocol):
    """A file of an ESP that is being filled."""

    def forget(self) -> None:
        """Have the next read come from the medium.

        Raises:
            HostError: the medium failed.
        """

    def close(self) -> None:
        """Let it go."""


@dataclass(frozen=True)
class MountedEsp:
    """An ESP where the system has mounted it.

    Attributes:
        root: the mount point, ``/efi``.
    """

    root: Path

    @property
    def name(self) -> str:
        """Where it is mounted."""
        return str(self.root)

    def files(self, folder: str) -> tuple[str, ...]:
        """Names of the files in a folder."""
        with self._told("read", folder):
            try:
                with os.scandir(self.root / folder) as found:
                    return tuple(sorted(each.name for each in found if each.is_file()))
            except (FileNotFoundError, NotADirectoryError):
                return ()

    def size(self, path: str) -> int | None:
        """Bytes of a file."""
        with self._told("read", path):
            try:
                return (self.root / path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, path: str, offset: int = 0, size: int = 1 << 16) -> bytes:
        """Some bytes of a file."""
        with self._told("read", path), (self.root / path).open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def target(self, path: str, size: int) -> EspFile:
        """A file to be filled."""
        self._require()
        with self._told("write", path):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            return _OpenFile(self, path, size)

    def remove(self, path: str) -> None:
        """Remove a file."""
        with self._told("write", path):
            (self.root / path).unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        with self._told("write", new):
            (self.root / old).rename(self.root / new)

    def sync(self) -> None:
        """Bring everything to the medium, then have the drive empty its own cache."""
        self._require()
        with self._told("sync", ""):
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.syncfs(handle) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                # FAT's syncfs writes it all and leaves it in the drive's cache; fsync goes on.
                os.fsync(handle)
            finally:
                os.close(handle)

    def free(self) -> int:
        """Bytes that are free."""
        self._require()
        with self._told("read", ""):
            found = os.statvfs(self.root)
            return found.f_bavail * found.f_frsize

    def room(self, size: int) -> int:
        """Whole clusters."""
        with self._told("read", ""):
            cluster = os.statvfs(self.root).f_bsize
        return -(-size // cluster) * cluster

    def _require(self) -> None:
        """An empty folder where it should be mounted would take it all, and forget it."""
        if not (self.root / "EFI").is_dir():
            raise HostError(
                f"there is no EFI system partition at {self.root}",
                hint=f"See `systemctl status {str(self.root).strip('/')}.mount`.",
            )

    @contextlib.contextmanager
    def _told(self, what: str, path: str) -> Iterator[None]:
        where = str(self.root / path)
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise full(self, where) from error
            raise HostError(
                f"cannot {what} {where} on the EFI system partition: {error.strerror or error}",
                hint="See the kernel's messages (`journalctl -k`).",
            ) from error


def full(esp: Esp, what: str) -> DiskFullError:
    """The error for an ESP that has no room."""
    return DiskFullError(
        f"no space is left on the EFI system partition at {esp.name} for {what}",
        hint="Remove what does not belong there; Recast keeps one boot file for each slot.",
    )


def folder_of(path: str) -> str:
    """Of ``loader/entries/recast-7.conf``: ``loader/entries``."""
    return str(PurePosixPath(path).parent)


class _OpenFile:
    """A file of a :class:`MountedEsp`, open."""

    def __init__(self, esp: MountedEsp, path: str, size: int) -> None:
        self._esp = esp
        self._path = path
        self._size = size
        self._handle = os.open(esp.root / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(self._handle, size)
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        with self._esp._told("read", self._path):
            data = os.pread(self._handle, size, offset)
        if len(data) != size:
            raise HostError(f"{self._esp.root / self._path} is shorter than {offset + size} bytes")
        return data

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self._size:
            raise HostError(f"{self._esp.root / self._path} has {self._size} bytes, no more")
        view = memoryview(data)
        with self._esp._told("write", self._path):
            while view:
                done = os.pwrite(self._handle, view, offset)
                view = view[done:]
                offset += done

    def sync(self) -> None:
        with self._esp._told("write", self._path):
            os.fsync(self._handle)

    def forget(self) -> None:
        with self._esp._told("read", self._path):
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._handle)
