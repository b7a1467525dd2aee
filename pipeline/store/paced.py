"""HTTP connections that do not wait for ever on a server that drips.

A time limit for each read does not help against a server that sends one byte before each limit,
in the body or in the headers. So the bytes are counted below the HTTP library, where they come
from the socket: too few over a while end the request, and so do headers without an end.
"""

from __future__ import annotations

import http.client
import io
import time
from dataclasses import dataclass
from typing import Any

import requests.adapters
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from pipeline.files import format_size

_MOST_HEADERS = 256 << 10  # bytes; answers of stores have less than one KiB


@dataclass(frozen=True)
class Pace:
    """The least that a server must send.

    Attributes:
        rate: bytes per second.
        window: seconds over which it is averaged; only those count that were spent waiting.
    """

    rate: float = 1024.0
    window: float = 30.0


class PaceError(Exception):
    """A server sends too little for too long, or headers without an end."""


class PacedAdapter(requests.adapters.HTTPAdapter):
    """Sends requests over connections whose answers keep to a pace.

    Reading an answer raises :class:`PaceError` when they do not.
    """

    def __init__(self, pace: Pace, *, connections: int) -> None:
        self._pools = _pools(pace)
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(pace: Pace) -> dict[str, type[HTTPConnectionPool]]:
    class Response(_PacedResponse):
        kept = pace

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _PacedResponse(http.client.HTTPResponse):
    """An answer whose bytes are counted as they come."""

    kept = Pace()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted = _Counted(self.fp.detach(), self.kept)
        self.fp = io.BufferedReader(self._counted)

    def begin(self) -> None:
        self._counted.left = _MOST_HEADERS
        super().begin()
        self._counted.left = None


class _Counted(io.RawIOBase):
    """What comes from a socket, with an eye on how fast.

    Attributes:
        left: how many bytes more may come; None for any number.
    """

    def __init__(self, inner: io.RawIOBase, pace: Pace) -> None:
        self._inner = inner
        self._pace = pace
        self._seconds = 0.0
        self._bytes = 0
        self.left: int | None = None

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int | None:
        before = time.monotonic()
        size = self._inner.readinto(buffer)
        self._seconds += time.monotonic() - before
        self._bytes += size or 0
        if self._seconds >= self._pace.window:
            self._judge()
        if self.left is not None:
            self.left -= size or 0
            if self.left < 0:
                raise PaceError("the server sends headers without an end")
        return size

    def _judge(self) -> None:
        rate = self._bytes / self._seconds
        if rate < self._pace.rate:
            raise PaceError(
                f"the server is too slow: it sent {format_size(self._bytes)} in "
                f"{self._seconds:.0f} s, less than {format_size(int(self._pace.rate))} per second"
            )
        self._seconds, self._bytes = 0.0, 0
