"""What a web server says to one connection's requests."""

from __future__ import annotations

import email.utils
import http.server
import io
import re
import time
from typing import Any
from urllib.parse import unquote

from pipeline.errors import HostError, UsageError
from pipeline.serve.listening import Arriving, Listener, Request
from pipeline.store.base import Info, MissingError, check_key, is_replaced

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
_ONE_YEAR = 31536000  # seconds; more than that no cache keeps
_MOST_HEADERS = 16 << 10  # bytes of one request's line and headers
_METHODS = "GET, HEAD"
_MOST_DIGITS = 9  # of a Content-Length that is looked at


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a small body waits until its header is acknowledged
    server: Listener

    def setup(self) -> None:
        """Read with a limit of time and size for each request."""
        super().setup()
        self.rfile.close()
        self._arriving = Arriving(self.connection)
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

    def do_PUT(self) -> None:
        """Take an object, where any are taken."""
        uploads = self.server.uploads
        self.connection.settimeout(self.server.timeout_of_clients)
        key = _key(self.path)
        if uploads is None or key is None or not self._is_upload(key):
            self.send_error(405)
            return
        size = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not size.isascii() or not size.isdigit():
            self.send_error(411)
            return
        if len(size) > _MOST_DIGITS or int(size) > uploads.limit:
            self.send_error(413)
            return
        self._arriving.left = int(size)  # some of it may be here already
        data = self.rfile.read(int(size))
        if len(data) < int(size):
            self.close_connection = True  # the client has gone
            return
        if self.server.crowded():
            self.close_connection = True
        try:
            status, text = uploads.accept(key, data)
        except Exception:  # one object's trouble, whatever it is, is not the server's
            status, text = 500, ""
        self._refuse(status, text=text)

    def _is_upload(self, key: str) -> bool:
        uploads = self.server.uploads
        return uploads is not None and key.startswith(uploads.prefix)

    def _answer(self) -> None:
        self.connection.settimeout(self.server.timeout_of_clients)
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that nobody reads
        if self.server.crowded():
            self.close_connection = True
        key = _key(self.path)
        try:
            if key is None or self._is_upload(key):  # what machines say is not for their neighbours
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

    def _refuse(self, status: int, more: dict[str, str] | None = None, *, text: str = "") -> None:
        """Answer without an object: with *text*, or what a status means."""
        if status == 204:
            self._head(status, {})
            return
        said = text or f"{status} {self.responses[status][0]}"
        words = "".join(c if c.isprintable() else " " for c in said)
        self._say(status, f"{words}\n".encode(), more or {})

    def _say(self, status: int, text: bytes, more: dict[str, str]) -> None:
        headers = {
            "Cache-Control": "no-cache",  # what is not there yet may be soon
            "Content-Type": "text/plain",
            "Content-Length": str(len(text)),
        }
        body = self.command != "HEAD"
        self._head(status, headers | more, len(text) if body else 0)
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
        allowed = _METHODS + (", PUT" if self.server.uploads is not None else "")
        self._refuse(status, {"Allow": allowed} if status == 405 else None)

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
