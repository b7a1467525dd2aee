"""Some ranges of stored objects, in few requests, and every byte of them counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.errors import NetworkError, TrustError
from pipeline.store.base import ChangedError, object_key
from pipeline.transfer.packed import WrongError, unpack

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.pointer import StoredObject
    from pipeline.store.base import Reader

MOST_REQUESTS = 24
"""For all ranges of an object; a machine fetches few objects at a time."""

_GAP = 16 << 10  # bytes that come sooner than the answer to another request would begin
_TRIES = 3  # for a small object
_PROGRESS = 64 << 10  # bytes after which a store that failed is asked for the rest

Range = tuple[int, int]
"""The first byte, and the one after the last."""


def join(ranges: Sequence[Range], most: int = MOST_REQUESTS, gap: int = _GAP) -> list[Range]:
    """At most *most* ranges that hold all of *ranges*, with as little besides as that allows.

    Args:
        ranges: in order, none reaching into the next.
        most: requests that may be made.
        gap: bytes between two ranges that are no reason for another request.
    """
    gaps = [other[0] - one[1] for one, other in pairwise(ranges)]
    widest = sorted(range(len(gaps)), key=gaps.__getitem__, reverse=True)[: most - 1]
    left_out = {number for number in widest if gaps[number] > gap}
    found: list[Range] = []
    for number, (start, end) in enumerate(ranges):
        if found and number - 1 not in left_out:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


class Link:
    """What comes from a store for one part.

    Args:
        store: the store.
        stop: ends it when set.

    Attributes:
        store: the same.
        received: bytes that came.
    """

    def __init__(self, store: Reader, stop: Stop | None = None) -> None:
        self.store = store
        self.received = 0
        self._stop = stop

    def check(self) -> None:
        """Raise `Interrupted` if that was asked for."""
        if self._stop is not None:
            self._stop.check()

    def get(self, stored: StoredObject, most: int) -> bytes:
        """The bytes that a small object stands for.

        Args:
            stored: the object.
            most: bytes that it may stand for.

        Raises:
            WrongError: its bytes are not those that its digest names, or it is too large.
            MissingError, NetworkError, HostError: as :meth:`pipeline.store.base.Reader.get`.
        """
        if stored.size > most:
            raise WrongError(f"it has {stored.size} bytes")
        why = ""
        for _ in range(_TRIES):
            self.check()
            try:
                data = self.store.get(object_key(stored.digest), limit=stored.size)
            except TrustError:
                why = f"it has more than {stored.size} bytes"
                continue
            self.received += len(data)
            if hashlib.sha256(data).hexdigest() == stored.digest:
                return data if stored.encoding == "plain" else unpack(data, most=most)
            why = "its bytes have another digest"
        raise WrongError(why)


class Ranges:
    """Chosen ranges of an object, read front to back.

    A store that gave something before its link failed is asked again at once for what is missing:
    on a link that comes and goes little would else ever be whole.

    Args:
        link: what they come through.
        stored: the object.
        ranges: what will be read, in order.
    """

    def __init__(self, link: Link, stored: StoredObject, ranges: Sequence[Range]) -> None:
        self.key = object_key(stored.digest)
        self._link = link
        self._spans = join(ranges)
        self._stream: Iterator[bytes] | None = None
        self._at = 0
        self._end = 0  # of what was asked for
        self._since = 0  # bytes that came since the store was last asked
        self._piece = memoryview(b"")

    @property
    def size(self) -> int:
        """Bytes that come if all is read."""
        return sum(end - start for start, end in self._spans)

    def close(self) -> None:
        """Let go of the connection."""
        if self._stream is not None:
            getattr(self._stream, "close", lambda: None)()
        self._stream = None
        self._piece = memoryview(b"")

    def read(self, start: int, size: int) -> bytes:
        """*size* bytes from *start* on.

        Raises:
            WrongError: the object ends before, or changes while it is read.
            MissingError, NetworkError, HostError: as
                :meth:`pipeline.store.base.Reader.stream`.
        """
        if self._stream is None or start < self._at or start + size > self._end:
            self._seek(start, size)
        try:
            self._take(start - self._at)
            return self._take(size)
        except ChangedError as error:
            raise WrongError("it changes while it is read") from error

    def _seek(self, start: int, size: int) -> None:
        self.close()
        self._at = start
        ends = [end for begin, end in self._spans if begin <= start < end]
        self._end = max([start + size, *ends])

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not self._piece:
                self._piece = memoryview(self._next())
                if not self._piece:
                    raise WrongError("it ends too early")
            found = self._piece[: size - len(data)]
            data += found
            self._piece = self._piece[len(found) :]
            self._at += len(found)
        return bytes(data)

    def _next(self) -> bytes:
        """The next piece of the object; empty at the end of what was asked for."""
        while True:
            self._link.check()
            if self._stream is None:
                left = self._end - self._at
                self._stream = iter(self._link.store.stream(self.key, start=self._at, size=left))
                self._since = 0
            try:
                piece = next(self._stream, b"")
            except NetworkError:
                self.close()
                if self._since < _PROGRESS:
                    raise
                continue
            self._link.received += len(piece)
            self._since += len(piece)
            return piece
