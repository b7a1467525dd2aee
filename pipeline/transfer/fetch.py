"""Read a published release back: parts, byte for byte as they were built and tested.

Nothing that a store gives is believed: every object is held against its digest and its size, and
so is what it was decompressed or put together to.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from pipeline import digest
from pipeline.errors import DigestError, UsageError
from pipeline.files import explained
from pipeline.store.base import object_key

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.pointer import Extent, PublishedPart, PublishedRelease, StoredObject
    from pipeline.store.base import Reader

_WINDOW = 128 << 20  # the most memory that a frame may ask of a reader; level 3 asks for 2 MiB
_PIECE = 1 << 20


def read_object(
    store: Reader, stored: StoredObject, size: int, stop: Stop | None = None
) -> Iterator[bytes]:
    """The bytes that *stored* stands for, decompressed.

    They must not be used before the iterator has come to its end: that is when it is known that
    they are right.

    Args:
        store: where it is.
        stored: the object.
        size: bytes that it stands for; more are never given out.
        stop: ends it when set.

    Raises:
        DigestError: the object is not the one that its digest names, or stands for another
            number of bytes; names its key.
        MissingError, NetworkError, HostError: as :meth:`pipeline.store.base.Reader.stream`.
        Interrupted: *stop* was set.
    """
    key = object_key(stored.digest)
    source = _Hashed(store, stored, stop)
    pieces = source.pieces() if stored.encoding == "plain" else _decompressed(store, key, source)
    given = 0
    for piece in pieces:
        given += len(piece)
        if given > size:
            raise _damaged(store, key, f"it stands for more than {size} bytes")
        yield piece
    for _ in source.pieces():  # what a decompressor leaves
        pass
    if source.hasher.hexdigest() != stored.digest:
        raise _damaged(store, key, "its bytes have another digest")
    if given != size:
        raise _damaged(store, key, f"it stands for {given} bytes, not {size}")


def save_part(
    store: Reader,
    release: PublishedRelease,
    role: str,
    target: Path,
    stop: Stop | None = None,
) -> None:
    """Write a part of *release* to the file *target*, whole or not at all.

    A disk is put together from the other parts, and is sparse.

    Args:
        store: where it is.
        release: its description.
        role: the part's: ``root``, ``disk``.
        target: the file; it is replaced.
        stop: ends it when set.

    Raises:
        UsageError: the release has no such part.
        DigestError: an object is damaged, or the part is not what its digest names.
        DiskFullError: no space is left.
        MissingError, NetworkError, HostError: the store cannot be read.
        Interrupted: *stop* was set.
    """
    part = release.parts.get(role)
    if part is None:
        raise UsageError(
            f"{release.name} has no {role}", hint=f"It has {', '.join(release.parts)}."
        )
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with explained(target), os.fdopen(handle, "wb") as file:
            file.truncate(part.size)
            end = 0
            for extent in _extents(part):
                if extent.offset < end or extent.offset + extent.size > part.size:
                    raise _wrong_place(store, release, extent)
                end = extent.offset + extent.size
                file.seek(extent.offset)
                for piece in _read_extent(store, release, extent, stop):
                    file.write(piece)
        found = digest.of_file(Path(name))
        if found != part.digest:
            raise DigestError(
                f"the {role} of {release.name} in {store.url} is not what was published: its "
                f"digest is {found[:16]}…, and must be {part.digest[:16]}…",
                hint="Its description was changed: publish the release again.",
            )
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _extents(part: PublishedPart) -> tuple[Extent, ...]:
    from pipeline.models.pointer import Extent

    if part.extents is not None:
        return part.extents
    return (Extent(offset=0, size=part.size, stored=part.stored),) if part.size else ()


def _read_extent(
    store: Reader, release: PublishedRelease, extent: Extent, stop: Stop | None
) -> Iterator[bytes]:
    stored = extent.stored
    if stored is None:
        inner = release.parts.get(extent.part or "")
        stored = inner.stored if inner is not None and inner.size == extent.size else None
    if stored is None:
        raise _wrong_place(store, release, extent)
    return read_object(store, stored, extent.size, stop)


class _Hashed:
    """The bytes of an object as they are stored, and their digest so far."""

    def __init__(self, store: Reader, stored: StoredObject, stop: Stop | None) -> None:
        self.hasher = hashlib.sha256()
        self._store = store
        self._stored = stored
        self._stop = stop
        self._stream = store.stream(object_key(stored.digest))
        self._taken = 0
        self._rest = b""

    def pieces(self) -> Iterator[bytes]:
        """What was not taken yet."""
        while piece := self.read(_PIECE):
            yield piece

    def read(self, size: int) -> bytes:
        """At most *size* bytes more; none at the end."""
        if not self._rest:
            if self._stop is not None:
                self._stop.check()
            self._rest = next(self._stream, b"")
            self.hasher.update(self._rest)
            self._taken += len(self._rest)
            if self._taken > self._stored.size:
                key = object_key(self._stored.digest)
                raise _damaged(self._store, key, f"it has more than {self._stored.size} bytes")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def _decompressed(store: Reader, key: str, source: _Hashed) -> Iterator[bytes]:
    """In pieces of bounded size: a few bytes may stand for very many."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        unpacked = decompressor.stream_reader(
            cast(IO[bytes], source), read_across_frames=True, closefd=False
        )
        with unpacked as reader:
            while piece := reader.read(_PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise _damaged(store, key, f"it cannot be decompressed: {error}") from error


def _wrong_place(store: Reader, release: PublishedRelease, extent: Extent) -> DigestError:
    return DigestError(
        f"the description of {release.name} in {store.url} does not say rightly what is at byte "
        f"{extent.offset}",
        hint="It was changed: publish the release again.",
    )


def _damaged(store: Reader, key: str, why: str) -> DigestError:
    return DigestError(
        f"{key} in {store.url} is damaged: {why}",
        hint=f"Remove {key} from the store; `recast publish` then puts it there again, from where "
        "the release was built.",
    )
