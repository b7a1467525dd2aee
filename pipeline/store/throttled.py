"""A store that is read no faster than a site allows.

Bytes are handed out at a rate, in small parts. Whoever waits for them reads no more from its
connection meanwhile, which makes the server's TCP wait as well. Of what lies in buffers on the way
it takes no notice: so a server is asked for a few seconds' worth at a time (:meth:`Throttle.span`),
or it would wait for minutes to get rid of one more byte, and hang up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from pipeline.command import Stop
from pipeline.errors import NetworkError, TrustError
from pipeline.files import format_size
from pipeline.store.base import ChangedError, Info, Reader

BURST = 1.0
"""Seconds' worth of bytes that may come at once after a pause."""

_PART = 0.25  # seconds' worth of bytes that are waited for, and handed out, at least
_SPAN = 5.0  # seconds' worth of one request; servers give a connection 30 to 60 s to move
_LEAST_SPAN = 16 << 10  # bytes; a request and what goes with it cost some 500
_LEAST_WAIT = 0.001  # seconds; else what rounding leaves would be waited for again and again
_LOOK = 1.0  # seconds after which the rate is looked up again; no wait is longer
_TRIES = 3  # for an object that changes while it is read


class Throttle:
    """How many bytes may come, and when: one for all that shares a link. Safe for several threads.

    Over any time of T seconds with one rate it gives no more than ``(T + BURST) * rate`` bytes.

    Args:
        rate: bytes per second that hold now, at least 1; None for no limit. Asked once a second.
        stop: ends a wait when set.
        now: seconds, by a clock that is never set.
        wait: waits some seconds, at most 1, or until *stop*.
    """

    def __init__(
        self,
        rate: Callable[[], float | None],
        *,
        stop: Stop | None = None,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._find_rate = rate
        self._stop = stop or Stop()
        self._now = now
        self._wait = wait or self._stop.wait
        self._turn = threading.Lock()  # held by the one that waits: the others are behind it
        self._state = threading.Lock()
        self._at = self._looked = now()
        self._rate = rate()
        self._left = (self._rate or 0.0) * BURST

    def take(self, most: int) -> int:
        """Wait until some bytes may come; how many, from 1 to *most*.

        Raises:
            Interrupted: *stop* was set.
        """
        with self._turn:
            while True:
                self._stop.check()
                given, seconds = self._try(most)
                if given:
                    return given
                self._wait(min(max(seconds, _LEAST_WAIT), _LOOK))

    def pay(self, size: int) -> None:
        """Wait until *size* bytes may come, for what has come already.

        Raises:
            Interrupted: *stop* was set.
        """
        while size > 0:
            size -= self.take(size)

    def span(self) -> int | None:
        """The most bytes that should be asked for in one request now; None for any number."""
        with self._state:
            self._refill()
            return None if self._rate is None else max(_LEAST_SPAN, int(self._rate * _SPAN))

    def _try(self, most: int) -> tuple[int, float]:
        """How many bytes may come now; if none, the seconds until some may."""
        with self._state:
            self._refill()
            if self._rate is None:
                return most, 0.0
            part = min(most, max(1, int(self._rate * _PART)))
            if self._left < part:
                return 0, (part - self._left) / self._rate
            given = min(most, int(self._left))
            self._left -= given
            return given, 0.0

    def _refill(self) -> None:
        now = self._now()
        self._left += (now - self._at) * (self._rate or 0.0)
        self._at = now
        if now - self._looked >= _LOOK:
            self._looked = now
            self._rate = self._find_rate()
        self._left = min(self._left, (self._rate or 0.0) * BURST)


class ThrottledStore:
    """Reads a store through a :class:`Throttle`. See :class:`pipeline.store.base.Reader`.

    What is asked for and how requests are worded is not counted: some 500 bytes each. Several
    mirrors share a throttle: each is wrapped, and not the :class:`pipeline.store.mirrors.FirstOf`
    that they make up.

    Args:
        inner: the store; its own time limits do not run while this one waits.
        throttle: says how much may come.
    """

    def __init__(self, inner: Reader, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    def get(self, key: str, *, limit: int) -> bytes:
        """See :meth:`pipeline.store.base.Reader.get`.

        It is streamed, or an index of some MiB would fill a thin link.
        """
        for _ in range(_TRIES):
            data = bytearray()
            try:
                for piece in self.stream(key):
                    data += piece
                    if len(data) > limit:
                        raise TrustError(
                            f"{key} in {self.url} is larger than {format_size(limit)}, which is "
                            "the most that it may have"
                        )
                return bytes(data)
            except ChangedError:
                continue
        raise NetworkError(
            f"{key} in {self.url} changes each time while it is read",
            hint="Try again; if it stays so, the mirrors behind that URL differ.",
        )

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """See :meth:`pipeline.store.base.Reader.get_changed`: comes at once, and is then paid."""
        found = self._inner.get_changed(key, etag, limit=limit)
        if found is not None:
            self._throttle.pay(len(found[0]))
        return found

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See :meth:`pipeline.store.base.Reader.stream`; ends with `Interrupted` on a stop."""
        for piece in self._inner.stream(key, start=start, size=size):
            rest = memoryview(piece)
            while rest:
                count = self._throttle.take(len(rest))
                yield bytes(rest[:count])
                rest = rest[count:]

    def find(self, key: str) -> Info | None:
        """See :meth:`pipeline.store.base.Reader.find`."""
        return self._inner.find(key)
