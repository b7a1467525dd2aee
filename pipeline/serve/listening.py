"""Connections of a web server: how many there may be, and how long and large a request is."""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import HostError
from pipeline.store.local import LocalStore


@dataclass(frozen=True)
class Request:
    """One answered request, for a log.

    Attributes:
        client: the address that it came from.
        line: method and path, as they were sent; printable characters only.
        status: of the answer.
        size: bytes of the answer's body.
    """

    client: str
    line: str
    status: int
    size: int


Log = Callable[[Request], None]


@dataclass(frozen=True)
class Uploads:
    """What a server takes.

    Attributes:
        prefix: of the keys that may be put.
        limit: bytes of an object, at most.
        accept: is given a key and an object, by several threads; returns a status, and a sentence
            for the client if it is refused.
    """

    prefix: str
    limit: int
    accept: Callable[[str, bytes], tuple[int, str]]


class Listener(http.server.ThreadingHTTPServer):
    """Accepts connections, and gives each a thread while there are few enough."""

    daemon_threads = False  # they end with the server, which cuts their connections
    request_queue_size = 128

    def __init__(
        self,
        handler: type[socketserver.BaseRequestHandler],
        address: tuple[socket.AddressFamily, tuple[Any, ...]],
        store: LocalStore,
        connections: int,
        timeout: float,
        log: Log | None,
        uploads: Uploads | None,
    ) -> None:
        self.address_family, where = address
        self.store, self.log, self.timeout_of_clients = store, log, timeout
        self.uploads = uploads
        self._most = connections
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            super().__init__(where, handler)
        except OSError as error:
            raise HostError(
                f"{where[0]}, port {where[1]}, cannot be listened on: {error.strerror}",
                hint="Choose another with `--port`, or 0 for any that is free.",
            ) from error

    def server_bind(self) -> None:
        """Take the address, without asking name servers who we are."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or at once that there is none free."""
        with self._lock:
            free = len(self._open) < self._most
            if free:
                self._open.add(request)
        if free:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(0)  # it fits into an empty buffer, or is not worth waiting for
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
        super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End one connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def crowded(self) -> bool:
        """Are so many connections open that idle ones are a burden?"""
        with self._lock:
            return len(self._open) * 2 > self._most

    def server_close(self) -> None:
        """Cut all connections, and wait for their threads."""
        with self._lock:
            for request in self._open:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over what went wrong with one connection: most often the other side has gone."""


class Arriving(io.RawIOBase):
    """What a client sends, up to a moment and a size."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0
        self.left = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some bytes; raises TimeoutError when it took too long, or it is too much."""
        rest = self.deadline - time.monotonic()
        if rest <= 0 or self.left <= 0:
            raise TimeoutError("the request is too slow, or too large")
        self._connection.settimeout(rest)
        size = self._connection.recv_into(buffer, min(len(buffer), self.left))
        self.left -= size
        return size
