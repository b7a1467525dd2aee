"""A wrapper that makes any store fail in ways that have a name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args

from pipeline.command import Stop
from pipeline.errors import HostError, NetworkError
from pipeline.files import disk_full
from pipeline.store.base import Info, Progress, Store

Fault = Literal[
    "torn write",  # half of the object gets its name, and the writer is told of a cut
    "5xx",  # every request is answered by an error
    "timeout",  # a write takes effect and its answer is lost; a read never comes
    "throttling",  # each first request for a key is refused, the second one served
    "short body",  # a reader gets half of the object, and no error
    "wrong bytes",  # a reader gets one bit wrong
    "clock skew",  # the server's clock is wrong by `skew`
    "unreadable",  # a folder that may not be read
    "read-only",  # a folder that may not be written
    "full disk",  # nothing that has a size can be written
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

WRITES = ("put", "create", "replace", "touch", "delete")
READS = ("get", "get_changed", "stream", "find", "list")


class Cut(BaseException):
    """The process was killed here: no handler of errors may run after it."""


class FaultyStore:
    """Any store, with faults.

    Args:
        inner: the store that does the work.
        faults: what goes wrong, of :data:`FAULTS`; may be changed at any time (``faults``).
        only: the operations that it concerns (:data:`WRITES`, :data:`READS`); all when empty.
        keys: only keys that begin with this are concerned.
        times: how often something goes wrong before all is well; for ever if None.
        skew: of its clock, for the fault "clock skew".
        cut_at: raise :class:`Cut` at this writing operation, counted from 1. The process is dead
            from then on: each operation that follows raises it too, and has no effect.
        cut: is that operation's effect there (``after``) or not (``before``)?

    Attributes:
        operations: (operation, key) of everything that was asked for, in order.
        received: bytes that readers were given.
    """

    def __init__(
        self,
        inner: Store,
        *faults: Fault,
        only: Collection[str] = (),
        keys: str = "",
        times: int | None = None,
        skew: timedelta = timedelta(days=1),
        cut_at: int | None = None,
        cut: Literal["before", "after"] = "before",
    ) -> None:
        assert set(faults) <= set(FAULTS), faults
        self.inner = inner
        self.faults: set[Fault] = set(faults)
        self.only = frozenset(only)
        self.keys = keys
        self.times = times
        self.skew = skew
        self.cut_at = cut_at
        self.cut = cut
        self.operations: list[tuple[str, str]] = []
        self.received = 0
        self.dead = False
        self._writes = 0
        self._seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def exclusive(self) -> bool:
        return self.inner.exclusive

    @property
    def writes(self) -> int:
        """How many writing operations were asked for."""
        return self._writes

    def get(self, key: str, *, limit: int) -> bytes:
        self._read("get", key)
        return self._given(self._spoilt("get", key, self.inner.get(key, limit=limit)))

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        self._read("get_changed", key)
        found = self.inner.get_changed(key, etag, limit=limit)
        if found is None:
            return None
        return self._given(self._spoilt("get_changed", key, found[0])), found[1]

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        self._read("stream", key)
        short = self._strikes("short body", "stream", key)
        wrong = self._strikes("wrong bytes", "stream", key)
        for piece in self.inner.stream(key, start=start, size=size):
            if self.dead:
                raise Cut
            if wrong:
                piece, wrong = _flipped(piece), False
            yield self._given(piece[: len(piece) // 2] if short else piece)
            if short:
                return

    def find(self, key: str) -> Info | None:
        self._read("find", key)
        found = self.inner.find(key)
        return self._skewed(found) if found else None

    def list(self, prefix: str = "") -> Iterator[Info]:
        self._read("list", prefix)
        for found in self.inner.list(prefix):
            yield self._skewed(found)

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        def torn() -> None:
            half = _half(read_source(source))
            self.inner.put(key, half, sha256=hashlib.sha256(half).hexdigest())

        def whole() -> None:
            self.inner.put(key, source, sha256=sha256, progress=progress, stop=stop)

        self._write("put", key, whole, torn)

    def create(self, key: str, data: bytes) -> None:
        self._write(
            "create",
            key,
            lambda: self.inner.create(key, data),
            lambda: self.inner.create(key, _half(data)),
        )

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        new = ""

        def write(what: bytes) -> None:
            nonlocal new
            new = self.inner.replace(key, what, etag=etag)

        self._write("replace", key, lambda: write(data), lambda: write(_half(data)))
        return new

    def touch(self, key: str) -> None:
        self._write("touch", key, lambda: self.inner.touch(key))

    def delete(self, key: str) -> None:
        self._write("delete", key, lambda: self.inner.delete(key))

    def _read(self, operation: str, key: str) -> None:
        self._note(operation, key)
        if self._strikes("unreadable", operation, key):
            raise HostError(f"{self.url} cannot be read: Permission denied")
        if self._strikes("timeout", operation, key):
            raise NetworkError(f"{key} in {self.url}: no answer came in time")
        self._answer(operation, key)

    def _write(
        self,
        operation: str,
        key: str,
        effect: Callable[[], None],
        torn: Callable[[], None] | None = None,
    ) -> None:
        number = self._note(operation, key)
        if number == self.cut_at and self.cut == "before":
            self._die()
        if self._strikes("read-only", operation, key):
            raise HostError(f"{self.url} cannot be written: Read-only file system")
        if torn is not None and self._strikes("full disk", operation, key):
            raise disk_full(Path(key))
        self._answer(operation, key)
        if torn is not None and self._strikes("torn write", operation, key):
            torn()
            raise NetworkError(f"{key} in {self.url}: the connection was cut")
        effect()
        if number == self.cut_at:
            self._die()
        if self._strikes("timeout", operation, key):
            raise NetworkError(f"{key} in {self.url}: no answer came in time")

    def _answer(self, operation: str, key: str) -> None:
        if self._strikes("5xx", operation, key):
            raise NetworkError(f"{key} in {self.url}: the server answers 503")
        with self._lock:
            first = (operation, key) not in self._seen
            self._seen.add((operation, key))
        if first and self._strikes("throttling", operation, key):
            raise NetworkError(f"{key} in {self.url}: the server answers 429, slow down")

    def _note(self, operation: str, key: str) -> int:
        """Write an operation down; returns its number among those that write."""
        with self._lock:
            if self.dead:
                raise Cut
            self.operations.append((operation, key))
            if operation not in WRITES:
                return 0
            self._writes += 1
            return self._writes

    def _die(self) -> None:
        self.dead = True
        raise Cut

    def _strikes(self, fault: Fault, operation: str, key: str) -> bool:
        with self._lock:
            if fault not in self.faults or not key.startswith(self.keys):
                return False
            if (self.only and operation not in self.only) or self.times == 0:
                return False
            if self.times is not None:
                self.times -= 1
            return True

    def _spoilt(self, operation: str, key: str, data: bytes) -> bytes:
        if self._strikes("short body", operation, key):
            data = _half(data)
        return _flipped(data) if self._strikes("wrong bytes", operation, key) else data

    def _given(self, data: bytes) -> bytes:
        with self._lock:
            self.received += len(data)
        return data

    def _skewed(self, found: Info) -> Info:
        if "clock skew" not in self.faults:
            return found
        return replace(found, modified=found.modified + self.skew)


def read_source(source: bytes | Path) -> bytes:
    """The bytes that :meth:`Store.put` was given, or was given the file of."""
    return source if isinstance(source, bytes) else source.read_bytes()


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
