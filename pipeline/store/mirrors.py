"""Several mirrors of one store, read as one: what one of them does not give, the next one may."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pipeline.errors import HostError, NetworkError, RecastError, TrustError, UsageError
from pipeline.store.base import ChangedError, Info, MissingError, Reader

_Got = TypeVar("_Got")
_NEXT = (MissingError, NetworkError, HostError, TrustError)


class FirstOf:
    """Asks some mirrors in turn until one of them answers.

    The one that gave something last is asked first from then on, so that a dead mirror costs its
    time limits once and not for every object. Whoever reads holds what it gets against a digest:
    mirrors need not be of one state. Safe for several threads, as they are.

    Args:
        mirrors: at least one; the first one is preferred.

    Raises:
        UsageError: there is none.
    """

    def __init__(self, mirrors: Sequence[Reader]) -> None:
        if not mirrors:
            raise UsageError("there is no store to read from")
        self._mirrors = tuple(mirrors)
        self._first = 0

    @property
    def url(self) -> str:
        """Where the one is that is asked first now."""
        return self._mirrors[self._first].url

    def get(self, key: str, *, limit: int) -> bytes:
        """See :meth:`pipeline.store.base.Reader.get`."""
        return self._ask(lambda mirror: mirror.get(key, limit=limit))

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """See :meth:`pipeline.store.base.Reader.get_changed`.

        Another mirror has other etags: when one takes over, all is new once.
        """
        return self._ask(lambda mirror: mirror.get_changed(key, etag, limit=limit))

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See :meth:`pipeline.store.base.Reader.stream`.

        Where one mirror stops, the next one goes on: for objects that are named by their digest.
        """
        at = start
        failures: list[RecastError] = []
        for number in self._order():
            try:
                left = None if size is None else start + size - at
                for piece in self._mirrors[number].stream(key, start=at, size=left):
                    at += len(piece)
                    yield piece
                self._first = number
                return
            except (*_NEXT, ChangedError) as error:
                failures.append(error)
        raise _worst(failures)

    def find(self, key: str) -> Info | None:
        """See :meth:`pipeline.store.base.Reader.find`."""

        def find(mirror: Reader) -> Info:
            found = mirror.find(key)
            if found is None:
                raise MissingError(key, mirror.url)
            return found

        try:
            return self._ask(find)
        except MissingError:
            return None

    def _ask(self, act: Callable[[Reader], _Got]) -> _Got:
        failures: list[RecastError] = []
        for number in self._order():
            try:
                got = act(self._mirrors[number])
            except _NEXT as error:
                failures.append(error)
            else:
                self._first = number
                return got
        raise _worst(failures)

    def _order(self) -> list[int]:
        first = self._first
        return [first, *(n for n in range(len(self._mirrors)) if n != first)]


def _worst(failures: Sequence[RecastError]) -> RecastError:
    """Of several errors the one to tell: that an object is missing is only sure if all say so."""
    return next((each for each in failures if not isinstance(each, MissingError)), failures[0])
