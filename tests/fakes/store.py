"""A store in memory, and a wrapper that makes any store fail in ways that have a name.

Both pass the contract suite of stores. :class:`FaultyStore` stands for a bad server, a bad disk or
a bad link, and for a process that is killed between two writes.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.command import Stop
from pipeline.errors import DigestError, TrustError
from pipeline.store.base import (
    ChangedError,
    ExistsError,
    Info,
    MissingError,
    Progress,
    check_key,
)
from tests.fakes.faulty_store import FAULTS, READS, WRITES, Cut, Fault, FaultyStore, read_source

__all__ = ["FAULTS", "READS", "WRITES", "Cut", "Fault", "FaultyStore", "MemoryStore"]

_PIECE = 1 << 20


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    modified: datetime


class MemoryStore:
    """A store that lives as long as its process.

    Args:
        name: told in its URL.
        now: its clock.
        skew: how much that clock is ahead of the right one.
        exclusive: does it say that `create` and `replace` are safe? (They always are.)
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        skew: timedelta = timedelta(0),
        exclusive: bool = True,
    ) -> None:
        self._name = name
        self._now = now
        self.skew = skew
        self._exclusive = exclusive
        self._objects: dict[str, _Object] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    @property
    def exclusive(self) -> bool:
        return self._exclusive

    def get(self, key: str, *, limit: int) -> bytes:
        return self._within(key, self._object(key).data, limit)

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        found = self._object(key)
        return None if found.etag == etag else (self._within(key, found.data, limit), found.etag)

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        data = self._object(key).data[: None if size is None else start + size]
        for at in range(start, len(data), _PIECE):
            yield data[at : at + _PIECE]

    def find(self, key: str) -> Info | None:
        found = self._objects.get(check_key(key))
        return _info(key, found) if found else None

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        check_key(key)
        if stop is not None:
            stop.check()
        data = read_source(source)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DigestError(f"what was to be stored as {key} is not what its digest names")
        with self._lock:
            self._write(key, data)
        if progress is not None:
            progress(len(data))

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            if check_key(key) in self._objects:
                raise ExistsError(f"there is a {key} in {self.url} already")
            self._write(key, data)

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        with self._lock:
            found = self._objects.get(check_key(key))
            if (found.etag if found else "") != etag:
                raise ChangedError(f"{key} in {self.url} has changed since it was read")
            return self._write(key, data)

    def touch(self, key: str) -> None:
        with self._lock:
            found = self._object(key)
            self._objects[key] = replace(found, modified=self._time())

    def list(self, prefix: str = "") -> Iterator[Info]:
        with self._lock:
            found = {k: o for k, o in self._objects.items() if k.startswith(prefix)}
        for key in sorted(found):
            yield _info(key, found[key])

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    # For tests: what no honest writer does.

    def corrupt(self, key: str, data: bytes) -> None:
        """Put other bytes where *key* is, past every check."""
        with self._lock:
            self._write(key, data)

    def age(self, key: str, by: timedelta) -> None:
        """Make an object older."""
        with self._lock:
            found = self._object(key)
            self._objects[key] = replace(found, modified=found.modified - by)

    def snapshot(self) -> dict[str, bytes]:
        """Everything that is there."""
        with self._lock:
            return {key: found.data for key, found in sorted(self._objects.items())}

    def restore(self, objects: dict[str, bytes]) -> None:
        """Hold exactly *objects*, as an attacker with an old copy would."""
        with self._lock:
            self._objects.clear()
            for key, data in objects.items():
                self._write(key, data)

    def _object(self, key: str) -> _Object:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise MissingError(key, self.url) from None

    def _within(self, key: str, data: bytes, limit: int) -> bytes:
        if len(data) > limit:
            raise TrustError(f"{key} in {self.url} is larger than {limit} bytes")
        return data

    def _write(self, key: str, data: bytes) -> str:
        etag = f"{next(self._numbers)}"
        self._objects[key] = _Object(bytes(data), etag, self._time())
        return etag

    def _time(self) -> datetime:
        return self._now() + self.skew


def _info(key: str, found: _Object) -> Info:
    return Info(key, len(found.data), found.etag, found.modified)
