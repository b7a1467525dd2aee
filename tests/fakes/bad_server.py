"""A web server that answers as it is told to, however wrong that is; and a wire that counts."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Self

Answer = Callable[[socket.socket], None]
"""Writes an answer to a request that has been read; the connection is closed after it."""


class BadServer:
    """Gives each connection one answer: the first the first one, and so on; the last one repeats.

    Attributes:
        requests: what was asked, line and headers.
        hung_up: connections whose other side closed before the answer was written.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answers = answers
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept)
        self.requests: list[str] = []
        self.hung_up = 0

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}"

    def header(self, number: int, name: str) -> str:
        """A header of a request; empty if it was not sent."""
        match = re.search(rf"(?im)^{name}: (.*?)\r?$", self.requests[number])
        return match[1] if match else ""

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the one that accepts
        self._accepting.join()
        self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                plain, connection = connection, self._tls.wrap_socket(connection, server_side=True)
                self._open.discard(plain)
                self._open.add(connection)
            request = b""
            while b"\r\n\r\n" not in request:
                if not (some := connection.recv(65536)):
                    return
                request += some
            number = len(self.requests)
            self.requests.append(request.decode())
            self._answers[min(number, len(self._answers) - 1)](connection)
        except (OSError, StopIteration):
            self.hung_up += 1
        finally:
            self._open.discard(connection)
            connection.close()


def head(status: str = "200 OK", **headers: str | int) -> bytes:
    """The beginning of an answer; ``_`` in a header's name stands for a dash."""
    lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return "".join(f"{line}\r\n" for line in [*lines, "Connection: close", ""]).encode()


def say(*pieces: bytes) -> Answer:
    """Send these, and close."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return answer


def say_and_reset(*pieces: bytes) -> Answer:
    """Send these, and close as a machine does that lost its power or its patience."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def drip(begin: bytes, piece: bytes, seconds: float) -> Answer:
    """Send *begin*, then *piece* again and again, with a pause before each, without an end."""
    pause = threading.Event()  # never set: the other side hangs up

    def answer(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            pause.wait(seconds)
            connection.sendall(piece)

    return answer


def silence(connection: socket.socket) -> None:
    """Say nothing until the other side hangs up."""
    while connection.recv(65536):
        pass


class Wire:
    """Passes connections on to another server, and counts.

    Attributes:
        sent: bytes from clients to the server.
        received: bytes from the server to clients.
        connections: how many there were.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self.sent = 0
        self.received = 0
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def total(self) -> int:
        return self.sent + self.received

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._socket, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._threads:
            thread.join()
        for each in [self._socket, *self._sockets]:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, target, count in (
                (client, server, self._count_sent),
                (server, client, self._count_received),
            ):
                thread = threading.Thread(target=self._pass, args=(source, target, count))
                self._threads.append(thread)
                thread.start()

    def _pass(
        self, source: socket.socket, target: socket.socket, count: Callable[[int], None]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                count(len(data))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _count_sent(self, size: int) -> None:
        self.sent += size

    def _count_received(self, size: int) -> None:
        self.received += size
