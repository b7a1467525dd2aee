"""A store in a folder: on this machine, or on anything that is mounted here.

Each object is a file whose path below the folder is its key, so that any web server can serve it.
Files are written under a hidden name, in ``.tmp``, and get their own when they are whole and on
the disk. Symbolic links below the folder are not followed: what they stand for is not there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pipeline.command import Stop
from pipeline.errors import DigestError, HostError, RecastError, TrustError, UsageError
from pipeline.files import explained, format_size, locked
from pipeline.store.base import ChangedError, ExistsError, Info, MissingError, Progress, check_key

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_TEMPORARY = ".tmp"
_LOCK = ".lock"
_LEFT_OVER = 86400.0  # seconds; no write takes a day
_SECOND = 10**9
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)


class LocalStore:
    """The objects in one folder.

    Args:
        folder: where they are; made by the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._tidied = False

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def exclusive(self) -> bool:
        """True: names and locks of a file system are safe."""
        return True

    def open(self, key: str) -> tuple[IO[bytes], Info]:
        """An object's file, open for reading, and what is known of it; the caller closes it.

        Raises:
            MissingError: there is no such object.
            HostError: it cannot be read.
        """
        path = self._path(key)
        with self._told("read"):
            try:
                if path is None:
                    raise MissingError(key, self.url)
                # Not to wait for the writer of a named pipe, which is no object.
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as error:
                if error.errno in _NOT_THERE:
                    raise MissingError(key, self.url) from None
                raise
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                os.close(handle)
                raise MissingError(key, self.url)
            return os.fdopen(handle, "rb", buffering=0), _info(key, status)

    def get(self, key: str, *, limit: int) -> bytes:
        """See :meth:`pipeline.store.base.Reader.get`."""
        file, info = self.open(key)
        with file:
            return self._whole(file, info, limit)

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """See :meth:`pipeline.store.base.Reader.get_changed`."""
        file, info = self.open(key)
        with file:
            return None if info.etag == etag else (self._whole(file, info, limit), info.etag)

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See :meth:`pipeline.store.base.Reader.stream`."""
        file, _ = self.open(key)
        with file:
            file.seek(start)
            left = size
            while piece := self._read(file, _PIECE if left is None else min(_PIECE, left)):
                left = None if left is None else left - len(piece)
                yield piece

    def find(self, key: str) -> Info | None:
        """See :meth:`pipeline.store.base.Reader.find`; raises HostError as well."""
        path = self._path(key)
        if path is None:
            return None
        with self._told("read"):
            try:
                status = os.lstat(path)
            except OSError as error:
                if error.errno in _NOT_THERE:
                    return None
                raise
            return _info(key, status) if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[Info]:
        """See :meth:`pipeline.store.base.Store.list`; what is no key is passed over."""
        with self._told("read"):
            yield from self._walk(self.folder, "", prefix)

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        """See :meth:`pipeline.store.base.Store.put`."""
        path = self._target(key)
        with _opened(source) as given, self._told("written"), self._temporary() as (file, name):
            found = _copy(given, file, progress, stop)
            if found != sha256:
                raise DigestError(
                    f"what was to be stored as {key} has the digest {found}, not {sha256}",
                    hint="The file was changed or damaged since it was made; build it again.",
                )
            _settle(file)
            os.replace(name, path)
            _sync(path.parent)

    def create(self, key: str, data: bytes) -> None:
        """See :meth:`pipeline.store.base.Store.create`."""
        path = self._target(key)
        with self._told("written"), self._temporary() as (file, name):
            file.write(data)
            _settle(file)
            self._claim(name, path, ExistsError(f"there is a {key} in {self.url} already"))

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        """See :meth:`pipeline.store.base.Store.replace`.

        Of two states of one object the newer one has a time that is later by a whole second at
        least: web servers such as nginx tell states apart by size and seconds alone.
        """
        path = self._target(key)
        changed = ChangedError(
            f"{key} in {self.url} has changed since it was read", hint="Try it again."
        )
        with (
            self._told("written"),
            locked(self.folder / _LOCK, what=f"replacing {key}"),
            self._temporary() as (file, name),
        ):
            found = self.find(key)
            if (found.etag if found else "") != etag:
                raise changed
            file.write(data)
            _settle(file)
            if found is None:
                self._claim(name, path, changed, alone=True)
            else:
                earliest = (os.lstat(path).st_mtime_ns // _SECOND + 1) * _SECOND
                if os.fstat(file.fileno()).st_mtime_ns < earliest:
                    os.utime(file.fileno(), ns=(earliest, earliest))
                    os.fsync(file.fileno())
                os.replace(name, path)
                _sync(path.parent)
            return _info(key, os.fstat(file.fileno())).etag

    def touch(self, key: str) -> None:
        """See :meth:`pipeline.store.base.Store.touch`."""
        file, _ = self.open(key)
        with file, self._told("written"):
            os.utime(file.fileno())

    def delete(self, key: str) -> None:
        """See :meth:`pipeline.store.base.Store.delete`."""
        path = self._path(key)
        with self._told("written"):
            try:
                if path is not None:
                    os.unlink(path)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise

    def tidy(self, *, older: float = _LEFT_OVER) -> int:
        """Remove what killed writers have left behind; returns how many files that were.

        The first write through this object does so, too.

        Args:
            older: the age in seconds from which on a file belongs to nobody any more.

        Raises:
            HostError: the folder cannot be written.
        """
        removed = 0
        with (
            self._told("written"),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self.folder / _TEMPORARY) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # somebody else tidies up as well
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > older:
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def _path(self, key: str) -> Path | None:
        """Where an object is; None if a symbolic link is on the way."""
        at = str(self.folder)
        *folders, name = check_key(key).split("/")
        for part in folders:
            at = f"{at}/{part}"
            if os.path.islink(at):
                return None
        return Path(at, name)

    def _target(self, key: str) -> Path:
        """Where an object will be, in a folder that is there."""
        path = self._path(key)
        if path is None:
            raise HostError(
                f"{self.folder} has a symbolic link on the way to {key}, which is not followed",
                hint="Put a folder in its place.",
            )
        with self._told("written"):
            _make_folder(path.parent)
            _make_folder(self.folder / _TEMPORARY)
        if not self._tidied:
            self._tidied = True
            self.tidy()
        return path

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[IO[bytes], str]]:
        """A new file and its name; it is gone afterwards if it did not get another name."""
        handle, name = tempfile.mkstemp(dir=self.folder / _TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file, name
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _claim(self, name: str, path: Path, taken: RecastError, *, alone: bool = False) -> None:
        """Give a file a name that is free, or raise *taken*; *alone*: we hold the lock."""
        try:
            os.link(name, path)
        except FileExistsError:
            raise taken from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: whoever writes there comes through the lock.
            lock = locked(self.folder / _LOCK, what=f"creating {path.name}")
            with contextlib.nullcontext() if alone else lock:
                if os.path.lexists(path):
                    raise taken from None
                os.rename(name, path)
        _sync(path.parent)

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[Info]:
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return
        folders = {entry.name for entry in found if entry.is_dir(follow_symlinks=False)}
        # In the order of keys "a.b" is before "a/c", whatever the order of "a" and "a.b" is.
        for entry in sorted(found, key=lambda e: e.name + "/" * (e.name in folders)):
            key = above + entry.name
            if entry.name in folders:
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._walk(folder / entry.name, f"{key}/", prefix)
            elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError, UsageError):
                    yield _info(check_key(key), entry.stat(follow_symlinks=False))

    def _whole(self, file: IO[bytes], info: Info, limit: int) -> bytes:
        data = b"" if info.size > limit else self._read(file, info.size + 1)
        if max(info.size, len(data)) > limit:
            raise TrustError(
                f"{info.key} in {self.url} is larger than {format_size(limit)}, which is the "
                "most that it may have"
            )
        return data

    def _read(self, file: IO[bytes], most: int) -> bytes:
        with self._told("read"):
            return file.read(most)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the system refuses into an error for a person; *what*: read or written."""
        try:
            with explained(self.folder):
                yield
        except OSError as error:
            hint = f"Look at the disk that holds {self.folder}."
            if isinstance(error, PermissionError):
                hint = "What was written with `sudo` belongs to root: use `sudo` here too, or "
                hint += "change its owner."
            elif error.errno == errno.EROFS:
                hint = "Its disk is mounted read-only: mount it for writing, or use another store."
            raise HostError(
                f"the store {self.folder} cannot be {what}: {error.strerror}", hint=hint
            ) from error


def _info(key: str, status: os.stat_result) -> Info:
    return Info(
        key=key,
        size=status.st_size,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}",
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _opened(source: bytes | Path) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise HostError(
            f"{source} cannot be read: {error.strerror}", hint="It was to be stored."
        ) from error


def _copy(
    source: IO[bytes], target: IO[bytes], progress: Progress | None, stop: Stop | None
) -> str:
    """Copy everything, leaving holes where there are only zeros; returns the SHA-256."""
    hasher = hashlib.sha256()
    size = 0
    while piece := source.read(_PIECE):
        if stop is not None:
            stop.check()
        hasher.update(piece)
        size += len(piece)
        if piece == _ZEROS:
            target.seek(size)
        else:
            target.write(piece)
        if progress is not None:
            progress(len(piece))
    target.truncate(size)
    return hasher.hexdigest()


def _settle(file: IO[bytes]) -> None:
    """Have a whole file on the disk, readable for everybody."""
    os.fchmod(file.fileno(), 0o644)
    file.flush()
    os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make *folder* and those above it, readable for everybody whatever the umask is."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Have the names in *folder* on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
