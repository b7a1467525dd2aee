"""What the modules of the S3 store share: how a server is asked, and bytes on their way to it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Protocol

from pipeline.command import Stop
from pipeline.errors import DigestError, HostError
from pipeline.store.base import is_replaced
from pipeline.store.s3_answers import DAMAGED, OVERTAKEN, Place, Said, no_s3

READ = 1 << 20
"""Bytes that are read of a file at once."""

_SENDS = 5  # times that a body is sent which arrives damaged, or is overtaken by another


class Calls(Protocol):
    """How the server is asked; see :class:`pipeline.store.s3.S3Store`.

    boto3 brings no types: what it answers goes no further than the modules named ``s3…``.
    """

    @property
    def place(self) -> Place:
        """The store, for messages."""

    @property
    def url(self) -> str:
        """The store, for messages about one object."""

    def full(self, key: str) -> str:
        """The key as it is in the bucket."""

    def call(
        self, action: str, key: str, *, may: Collection[int | str] = (), **parameters: Any
    ) -> dict[str, Any]:
        """Ask, with boto3's name for the action; statuses and codes in *may* raise `Said`."""

    def pages(self, action: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Ask for a list, page by page; *key* is for messages alone."""


class Source:
    """The bytes of an object, which several threads read at once.

    Args:
        content: the bytes, or the file that holds them.

    Raises:
        HostError: the file cannot be read.
    """

    def __init__(self, content: bytes | Path) -> None:
        self._bytes = content if isinstance(content, bytes) else None
        self._handle = -1
        self.size = len(content) if isinstance(content, bytes) else 0
        if isinstance(content, Path):
            try:
                self._handle = os.open(content, os.O_RDONLY | os.O_CLOEXEC)
                self.size = os.fstat(self._handle).st_size
            except OSError as error:
                self.close()
                raise HostError(f"{content} cannot be read: {error.strerror}") from error

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self, start: int, length: int) -> bytes:
        """At most *length* bytes from byte *start* on."""
        if self._bytes is not None:
            return self._bytes[start : start + length]
        return os.pread(self._handle, length, start)


class Window(io.RawIOBase):
    """A part of a source as a file: sent from where it lies, so that parts cost no memory.

    Args:
        source: all the bytes.
        start: where the part begins.
        size: how long it is.
        ended: asked before each read; once it says so, sending ends at once.
    """

    def __init__(self, source: Source, start: int, size: int, *ended: Stop | threading.Event):
        super().__init__()
        self._source = source
        self._start = start
        self._size = size
        self._ended = ended
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes: a retry begins again."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move within the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes.

        Raises:
            CancelledError: an end was asked for. The one exception that botocore lets through.
        """
        if any(flag.is_set() for flag in self._ended):
            raise CancelledError
        left = self._size - self._at
        data = self._source.read(
            self._start + self._at, left if size is None or size < 0 else min(size, left)
        )
        self._at += len(data)
        return data

    def digest(self, algorithm: str = "sha256") -> bytes:
        """The raw digest of it all; the next read is from its start."""
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        self.seek(0)
        while block := self.read(READ):
            hasher.update(block)
        self.seek(0)
        return hasher.digest()


def base64_of(digest: bytes) -> str:
    """A checksum as S3's headers hold it."""
    return base64.b64encode(digest).decode()


def send(
    calls: Calls,
    action: str,
    key: str,
    body: Window,
    sha256: bytes,
    *,
    may: Collection[int | str] = (),
    **parameters: Any,
) -> dict[str, Any]:
    """Send *body* by ``put_object`` or ``upload_part``, and make sure that it arrived as it is.

    Raises:
        DigestError: it arrives damaged, each time.
        Said: as :meth:`Calls.call`; with `OVERTAKEN` in *may*, also where a younger write won.
        RecastError: as :meth:`Calls.call`.
    """
    checksum = base64_of(sha256)
    for attempt in range(1, _SENDS + 1):
        pause(attempt - 1)
        body.seek(0)
        last = attempt == _SENDS
        try:
            answer = calls.call(
                action,
                key,
                may=may if last else (*may, *DAMAGED),
                Body=body if len(body) else b"",
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
                **parameters,
            )
        except Said as said:
            if said.code not in DAMAGED:
                raise
            continue
        if answer.get("ChecksumSHA256", checksum) != checksum:
            raise DigestError(
                f"{calls.place.server} has stored other bytes as {key} than those that were sent",
                hint="Delete it there, and look at the server: it says so itself.",
            )
        if "ETag" in answer:
            return answer
        if OVERTAKEN in may:
            raise Said(200, OVERTAKEN, retried=False)
    raise no_s3(calls.place)


def headers(key: str) -> dict[str, str]:
    """What an object is stored with: how it may be cached, and what it is."""
    return {
        "CacheControl": "no-cache" if is_replaced(key) else "public, max-age=31536000, immutable",
        "ContentType": "application/json" if key.endswith(".json") else "application/octet-stream",
    }


def pause(failures: int) -> None:
    """Wait before another try, longer each time and never as long as the neighbour."""
    if failures:
        time.sleep(min(0.1 * 2**failures, 5.0) * (0.5 + secrets.randbelow(512) / 1024))
