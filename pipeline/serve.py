"""A small web server for the objects of a local store; it only ever reads.

For a first site, a laboratory, a bench with a cable. It does what sites need (ranges, ETags,
conditional requests, caching) and nothing else, with a bound on everything a stranger could use
up: connections, the time of a request, the size of its headers.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import io
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.errors import HostError, UsageError
from pipeline.store.base import Info, MissingError, check_key, is_replaced
from pipeline.store.local import LocalStore

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
_ONE_YEAR = 31536000  # seconds; more than that no cache keeps
_MOST_HEADERS = 16 << 10  # bytes of one request's line and headers
_METHODS = "GET, HEAD"


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


class Server:
    """Serves a folder while its ``with`` block runs.

    Args:
        store: what is served.
        host: the address to listen on.
        port: 0 for any that is free.
        connections: most at a time; who comes then is asked to come again.
        timeout: seconds that a request may take to arrive, an idle connection may stay, and a
            client may take nothing.
        log: hears of each request; called by several threads.

    Raises:
        UsageError: there is no such address here.
        HostError: the port is taken, or not ours to take.
    """

    def __init__(
        self,
        store: LocalStore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        connections: int = 128,
        timeout: float = 30.0,
        log: Log | None = None,
    ) -> None:
        self.store = store
        self._listener = _Listener(_address(host, port), store, connections, timeout, log)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listener.server_address[:2]
        text = host if isinstance(host, str) else host.decode()
        return f"http://[{text}]:{port}" if ":" in text else f"http://{text}:{port}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    connections: int = 128,
    timeout: float = 30.0,
    log: Log | None = None,
) -> Server:
    """A server for the store in *folder*, to be used in a ``with`` statement; see `Server`."""
    store = LocalStore(folder)
    return Server(store, host, port, connections=connections, timeout=timeout, log=log)


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise UsageError(f"there is no address `{host}` to listen on") from error
    family, _, _, _, address = found[0]
    return family, address


class _Listener(http.server.ThreadingHTTPServer):
    """Accepts connections, and gives each a thread while there are few enough."""

    daemon_threads = False  # they end with the server, which cuts their connections
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[socket.AddressFamily, tuple[Any, ...]],
        store: LocalStore,
        connections: int,
        timeout: float,
        log: Log | None,
    ) -> None:
        self.address_family, where = address
        self.store, self.log, self.timeout_of_clients = store, log, timeout
        self._most = connections
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            super().__init__(where, _Handler)
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


class _Arriving(io.RawIOBase):
    """What a client sends, up to a moment and a size."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0
        self.left = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        rest = self.deadline - time.monotonic()
        if rest <= 0 or self.left <= 0:
            raise TimeoutError("the request is too slow, or too large")
        self._connection.settimeout(rest)
        size = self._connection.recv_into(buffer, min(len(buffer), self.left))
        self.left -= size
        return size


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a small body waits until its header is acknowledged
    server: _Listener

    def setup(self) -> None:
        """Read with a limit of time and size for each request."""
        super().setup()
        self.rfile.close()
        self._arriving = _Arriving(self.connection)
        self.rfile = io.BufferedReader(self._arriving)

    def handle_one_request(self) -> None:
        """Answer one request; the connection stays for another if all went well."""
        self._arriving.deadline = time.monotonic() + self.server.timeout_of_clients
        self._arriving.left = _MOST_HEADERS
        super().handle_one_request()

    def do_GET(self) -> None:
        """Send an object, or a part of it."""
        self._answer()

    def do_HEAD(self) -> None:
        """Send what a GET would begin with."""
        self._answer()

    def _answer(self) -> None:
        self.connection.settimeout(self.server.timeout_of_clients)
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that nobody reads
        if self.server.crowded():
            self.close_connection = True
        key = _key(self.path)
        try:
            if key is None:
                raise MissingError(self.path, self.server.store.url)
            file, info = self.server.store.open(key)
        except MissingError:
            self._refuse(404)
            return
        except HostError:
            self._refuse(500)
            return
        with file:
            self._send(file, info)

    def _send(self, file: Any, info: Info) -> None:
        etag = f'"{info.etag}"'
        lasting = not is_replaced(info.key)
        headers = {
            "ETag": etag,
            "Cache-Control": f"max-age={_ONE_YEAR}, immutable" if lasting else "no-cache",
        }
        if _names(self.headers.get("If-None-Match", ""), etag):
            self._head(304, headers)
            return
        part = self._part(info, etag)
        if part is None:
            self._refuse(416, {"Content-Range": f"bytes */{info.size}"})
            return
        status, start, end = part
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
        headers["Accept-Ranges"] = "bytes"
        headers["Last-Modified"] = email.utils.format_datetime(info.modified, usegmt=True)
        headers["Content-Type"] = (
            "application/json" if info.key.endswith(".json") else "application/octet-stream"
        )
        headers["Content-Length"] = str(end - start)
        body = end - start if self.command == "GET" else 0
        self._head(status, headers, body)
        if body and self.connection.sendfile(file, start, body) < body:
            self.close_connection = True  # it became shorter; the client sees that it was cut

    def _part(self, info: Info, etag: str) -> tuple[int, int, int] | None:
        """Status, first byte and byte after the last; None if there is no such part.

        RFC 9110, section 14: what is no valid range, or is more than one, may be passed over.
        """
        whole = (200, 0, info.size)
        match = _RANGE.fullmatch(self.headers.get("Range", "").replace(" ", ""))
        if match is None or self.command != "GET":
            return whole
        if self.headers.get("If-Range", etag).strip() != etag:
            return whole
        first, last, suffix = (int(text) if text else None for text in match.groups())
        if first is None:
            start = max(0, info.size - (suffix or 0))
            return (206, start, info.size) if suffix and info.size else None
        if last is not None and last < first:
            return whole
        if first >= info.size:
            return None
        return 206, first, info.size if last is None else min(last + 1, info.size)

    def _refuse(self, status: int, more: dict[str, str] | None = None) -> None:
        text = f"{status} {self.responses[status][0]}\n".encode()
        headers = {
            "Cache-Control": "no-cache",  # what is not there yet may be soon
            "Content-Type": "text/plain",
            "Content-Length": str(len(text)),
        }
        body = self.command != "HEAD"
        self._head(status, headers | (more or {}), len(text) if body else 0)
        if body:
            self.wfile.write(text)

    def _head(self, status: int, headers: dict[str, str], size: int = 0) -> None:
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self._log(status, size)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or none of ours; the connection ends."""
        self.close_connection = True
        self.command = self.command or ""
        self.request_version = self.protocol_version  # a line of garbage counts as HTTP/0.9
        status = 405 if code == 501 else int(code)
        self._refuse(status, {"Allow": _METHODS} if status == 405 else None)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: there is a log."""

    def _log(self, status: int, size: int) -> None:
        if self.server.log is not None:
            line = "".join(c if c.isprintable() else "?" for c in self.requestline[:300])
            line = line.removesuffix(f" {self.request_version}")
            self.server.log(Request(self.client_address[0], line, status, size))


def _key(path: str) -> str | None:
    """The key that a request's path stands for; None if it is none."""
    if path.startswith(("http://", "https://")):  # what a proxy is sent, and a server must take
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    try:
        return check_key(unquote(path.partition("?")[0].removeprefix("/"), errors="strict"))
    except (UsageError, UnicodeDecodeError):
        return None


def _names(header: str, etag: str) -> bool:
    """Does an ``If-None-Match`` name *etag*?"""
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return any(tag in ("*", etag) for tag in tags)
