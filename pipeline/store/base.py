"""What a store is: a flat space of objects, each a key and some bytes.

Nearly everything in a store is written once and never changed, so a key names the same bytes for
ever and any cache may keep them. The exceptions (:func:`is_replaced`): ``metadata/timestamp.json``;
the description of a release, ``releases/<image>/<version>.json``, to which tests elsewhere may
add evidence; and what machines report, ``checkins/``. No machine reads the latter two.

A key is a relative path of letters, digits and ``. _ - % / @ + =``; no part of it begins with a
dot: hidden files are a folder's own.

``create`` and ``replace`` are how several writers keep out of each other's way: of two that
create one key one gets :class:`ExistsError`, and of two that replace one state of an object one
gets :class:`ChangedError`. A store whose server cannot do that says so (:attr:`Store.exclusive`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.command import Stop
from pipeline.errors import ConflictError, RecastError, UsageError

_PART = r"[A-Za-z0-9_%@+=-][A-Za-z0-9._%@+=-]*"
_KEY = re.compile(rf"{_PART}(/{_PART})*")
_MAX_KEY = 512  # bytes; S3 allows 1024, its prefix included

Progress = Callable[[int], None]
"""Hears how many bytes more have been transferred."""


class MissingError(RecastError):
    """There is no object with that key.

    Attributes:
        key: the key.
    """

    exit_code = 2

    def __init__(self, key: str, where: str) -> None:
        super().__init__(f"there is no {key} in {where}")
        self.key = key


class ExistsError(ConflictError):
    """There is an object with that key already."""


class ChangedError(ConflictError):
    """The object is no longer what it was when it was read."""


@dataclass(frozen=True)
class Info:
    """What is known of an object without reading it.

    Attributes:
        key: its key.
        size: bytes.
        etag: changes whenever the bytes do; means nothing else.
        modified: when it was last written or touched, by the store's clock.
    """

    key: str
    size: int
    etag: str
    modified: datetime


class Reader(Protocol):
    """A store that can be read. Safe for several threads."""

    @property
    def url(self) -> str:
        """Where it is, for messages; never holds a secret."""

    def get(self, key: str, *, limit: int) -> bytes:
        """The bytes of a small object.

        Args:
            key: its key.
            limit: the most bytes that are taken.

        Raises:
            MissingError: there is no such object.
            TrustError: it is larger than *limit*.
            NetworkError: the store cannot be reached, fails, stalls or is too slow.
            HostError: a local store cannot be read.
        """

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """The bytes and etag of an object that is not *etag* any more; None while it is.

        An empty *etag* matches nothing. Raises what :meth:`get` raises.
        """

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of an object from byte *start* on, in pieces of at most 1 MiB.

        At most *size* of them, if that is given; from the object's end on there is nothing. A
        connection that is cut is taken up again where it stood, a few times. Errors come with the
        first piece at the earliest.

        Raises:
            ChangedError: the object became another one meanwhile.
            MissingError, NetworkError, HostError: as :meth:`get`.
        """

    def find(self, key: str) -> Info | None:
        """What is known of an object; None if there is none.

        Raises:
            NetworkError: the store cannot be reached.
        """


class Store(Reader, Protocol):
    """A store that can be written. Safe for several threads."""

    @property
    def exclusive(self) -> bool:
        """Are `create` and `replace` safe against other writers? Asks the server once."""

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Write an object whose content its key determines; overwriting changes nothing.

        All or nothing: whoever reads the key sees the whole object or none. What a cut upload
        left is taken up by the next one where the store can do that.

        Args:
            key: its key.
            source: its bytes, or the file that holds them.
            sha256: their digest; checked against what arrives.
            progress: hears of bytes that need not be sent again.
            stop: ends it when set.

        Raises:
            DigestError: *source* is not what *sha256* names, or it arrived damaged.
            DiskFullError: no space is left.
            HostError: the folder cannot be written.
            Interrupted: *stop* was set.
            NetworkError: the store cannot be reached, or refuses.
        """

    def create(self, key: str, data: bytes) -> None:
        """Write a new object, all or nothing.

        Raises:
            ExistsError: there is one with that key.
            NetworkError, HostError, DiskFullError: as :meth:`put`.
        """

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        """Write an object in place of the one that has *etag*; return the new etag.

        An empty *etag* stands for "there is none yet".

        Raises:
            ChangedError: it is no longer that one.
            NetworkError, HostError, DiskFullError: as :meth:`put`.
        """

    def touch(self, key: str) -> None:
        """Make an object as young as one that was just written.

        Raises:
            MissingError: there is no such object.
            NetworkError, HostError: as :meth:`put`.
        """

    def list(self, prefix: str = "") -> Iterator[Info]:
        """The objects whose keys begin with *prefix*, sorted by key.

        Raises:
            NetworkError, HostError: as :meth:`put`.
        """

    def delete(self, key: str) -> None:
        """Remove an object; that there is none is fine.

        Raises:
            NetworkError, HostError: as :meth:`put`.
        """


def check_key(key: str) -> str:
    """Refuse what is no key, or would leave the store's folder.

    Raises:
        UsageError: it is not a key.
    """
    if not _KEY.fullmatch(key) or len(key) > _MAX_KEY:
        raise UsageError(f"{key!r} is no key of a store")
    return key


def is_replaced(key: str) -> bool:
    """May another object take the place of this one? Then a cache must ask each time."""
    return key == "metadata/timestamp.json" or key.startswith(("releases/", "checkins/"))


def object_key(digest: str) -> str:
    """Where the object with this SHA-256 is: ``objects/ab/abcd…``."""
    return f"objects/{digest[:2]}/{digest}"


def release_key(image: str, version: str) -> str:
    """Where the description of a published release is; it is written last."""
    return f"releases/{image}/{version}.json"
