"""Single frames out of a stored object, in as few requests as their places allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from pipeline.errors import NetworkError
from pipeline.transfer.frames import FRAME, Frame

if TYPE_CHECKING:
    from typing import IO

    from pipeline.command import Stop
    from pipeline.store.base import Reader

_WINDOW = FRAME  # the most memory that a frame may ask of a reader
_PIECE = 1 << 20
_PROGRESS = 64 << 10  # bytes after which a store that failed is asked for the rest


class WrongError(Exception):
    """The bytes that came cannot be those of a frame; says why."""


class RangedObject:
    """An object that is read here and there, in as few requests as that allows.

    A store that gave something before its link failed is asked again at once for what is missing:
    on a link that comes and goes a frame of some MiB would else never be whole.

    Attributes:
        received: bytes that came.
    """

    def __init__(self, store: Reader, key: str, stop: Stop | None) -> None:
        self.store = store
        self.key = key
        self.stop = stop
        self.received = 0
        self._stream: Iterator[bytes] | None = None
        self._at = 0
        self._since = 0  # bytes that came since the store was last asked
        self._left = 0  # bytes of a frame that are still to come
        self._piece = memoryview(b"")

    def check(self) -> None:
        """Raise `Interrupted` if that was asked for."""
        if self.stop is not None:
            self.stop.check()

    def close(self) -> None:
        """Let go of the connection."""
        if self._stream is not None:
            getattr(self._stream, "close", lambda: None)()
        self._stream = None
        self._piece = memoryview(b"")

    def read_frame(self, frame: Frame, compressed: bool) -> bytearray:
        """The bytes of *frame*, which are not verified yet.

        Raises:
            WrongError: they cannot be right.
            ChangedError, MissingError, NetworkError, HostError: as
                :meth:`pipeline.store.base.Reader.stream`.
        """
        if self._stream is None or self._at != frame.start:
            self.close()
            self._at = frame.start
        self._left = frame.stored
        data = bytearray(frame.size)
        at = self._decompress(data) if compressed else self._copy(data)
        if at < frame.size:
            raise WrongError("it ends too early")
        while self.read(_PIECE):  # what a decompressor leaves
            pass
        return data

    def read(self, size: int) -> bytes:
        """At most *size* bytes more of the frame; none at its end."""
        wanted = min(size, self._left)
        if wanted and not self._piece:
            self._piece = memoryview(self._next())
        found = bytes(self._piece[:wanted])
        self._piece = self._piece[wanted:]
        self._at += len(found)
        self._left -= len(found)
        return found

    def _next(self) -> bytes:
        """The next piece of the object; empty at its end."""
        while True:
            self.check()
            if self._stream is None:
                self._stream = iter(self.store.stream(self.key, start=self._at))
                self._since = 0
            try:
                piece = next(self._stream, b"")
            except NetworkError:
                self.close()
                if self._since < _PROGRESS:
                    raise
                continue
            self.received += len(piece)
            self._since += len(piece)
            return piece

    def _copy(self, data: bytearray) -> int:
        at = 0
        while found := self.read(_PIECE):
            if at + len(found) > len(data):
                raise WrongError("it is too long")
            data[at : at + len(found)] = found
            at += len(found)
        return at

    def _decompress(self, data: bytearray) -> int:
        """A few bytes may stand for very many: no more than *data* has room for are taken."""
        import zstandard

        at = 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        try:
            with (
                memoryview(data) as view,
                decompressor.stream_reader(cast("IO[bytes]", self), closefd=False) as reader,
            ):
                while at < len(data) and (count := reader.readinto(view[at : at + _PIECE])):
                    at += count
                if reader.read(1):
                    raise WrongError("it is too long")
        except zstandard.ZstdError as error:
            raise WrongError(f"it cannot be decompressed: {error}") from error
        return at
