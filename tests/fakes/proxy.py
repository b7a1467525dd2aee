"""A web proxy before a real server: it keeps what is asked of it, and misbehaves by name."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "expect", "keep-alive", "te", "transfer-encoding", "upgrade"}


class Fault(StrEnum):
    """What may go wrong on the way."""

    REFUSED = "an answer of the proxy's own, and the server hears nothing"
    NO_ANSWER = "the connection is cut before the server hears"
    LOST_ANSWER = "the server does it, and the connection is cut before it can say so"
    SHORT_BODY = "the answer's body is cut in its middle"
    WRONG_BYTES = "one bit of the answer's body is another"
    DAMAGED = "one bit of what is sent is another"
    STALL = "the server hears nothing, and no answer comes"
    DRIP = "the answer's body comes byte by byte"
    UNCONDITIONAL = "the conditions of a write are dropped, as by a server that knows none"


@dataclass(frozen=True)
class Seen:
    """A request that came by."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    size: int

    def holds(self, path: str, query: str) -> bool:
        """Is *path* in its path, and *query*, such as ``a=1`` or ``a``, one of its parameters?"""
        parameters = self.query.split("&")
        named = any(p == query or p.startswith(f"{query}=") for p in parameters)
        return path in self.path and (named or not query)


@dataclass
class Rule:
    """When to misbehave how, and how often."""

    fault: Fault
    when: Callable[[Seen], bool]
    times: float
    answer: tuple[int, bytes, Mapping[str, str]] = (500, b"", {})


def s3_error(code: str) -> bytes:
    """An error's body, as S3 servers send it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
        f"<Message>as the test wants it</Message></Error>"
    ).encode()


@dataclass
class Proxy:
    """Forwards to *target*; `fault` makes it misbehave.

    Attributes:
        seen: the requests so far.
        rules: how to misbehave, in order; see :meth:`fault`.
    """

    target: str
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    rules: list[Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """Answer at `url`, on loopback, while the block runs."""
        owner = self

        class Handler(_Handler):
            proxy = owner

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            server.shutdown()
            thread.join()
            server.server_close()

    def fault(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        query: str = "",
        times: float = 1,
        status: int = 500,
        code: str = "InternalError",
        clock: timedelta | None = None,
        body: bytes | None = None,
    ) -> None:
        """Misbehave.

        Args:
            fault: how.
            method: with this method alone.
            path: only where the path holds this.
            query: only where this is one of the query's parameters: ``a=1``, or ``a``.
            times: how often; `inf` for ever.
            status: of a refusal.
            code: S3's, of a refusal.
            clock: by how much the clock of who refuses is ahead.
            body: of the refusal, in place of S3's.
        """

        def when(seen: Seen) -> bool:
            return method in ("", seen.method) and seen.holds(path, query)

        headers = (
            {} if clock is None else {"Date": format_datetime(datetime.now(UTC) + clock, True)}
        )
        content = s3_error(code) if body is None else body
        self.rules.append(Rule(fault, when, times, (status, content, headers)))

    def behave(self) -> None:
        """Misbehave no more."""
        self.rules.clear()

    def find(self, method: str, path: str = "", query: str = "") -> list[Seen]:
        """The requests so far that fit."""
        return [s for s in self.seen if s.method == method and path in s.path and query in s.query]

    def note(self, seen: Seen) -> Rule | None:
        """Keep a request; say how to misbehave."""
        with self._lock:
            self.seen.append(seen)
            for rule in self.rules:
                if rule.times > 0 and rule.when(seen):
                    rule.times -= 1
                    return rule
        return None

    def stall(self) -> None:
        """Wait for the end."""
        self._ended.wait(120)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # who asks has gone away
            self._cut()
            return
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        rule = self.proxy.note(Seen(self.command, parts.path, parts.query, headers, len(body)))
        fault = rule.fault if rule else None
        if fault is Fault.REFUSED:
            assert rule is not None
            self._answer(*rule.answer)
            return
        if fault is Fault.STALL:
            self.proxy.stall()
        if fault in (Fault.NO_ANSWER, Fault.STALL):
            self._cut()
            return
        if fault is Fault.DAMAGED:
            body = _flipped(body)
        if fault is Fault.UNCONDITIONAL:
            headers = {n: v for n, v in headers.items() if n not in ("if-match", "if-none-match")}
        status, content, answered = self._ask(headers, body)
        if fault is Fault.LOST_ANSWER:
            self._cut()
            return
        self._answer(status, content, answered, fault)

    def _ask(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(urlsplit(self.proxy.target).netloc, timeout=120)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers.items():
                if name not in _HOP and name != "content-length":
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            if name.lower() == "content-length":
                length = value  # that of a HEAD's answer
            elif name.lower() not in _HOP:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is Fault.WRONG_BYTES:
            body = _flipped(body)
        if fault is Fault.SHORT_BODY:
            self.wfile.write(body[: len(body) // 2])
            self._cut()
            return
        if fault is Fault.DRIP:
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                if self.proxy._ended.wait(0.05):
                    return
        else:
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
