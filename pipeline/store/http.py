"""A store behind any web server or CDN, to read.

What a server says is not believed: bodies have limits, redirects do not leave HTTPS, no cookie
and no credential is ever sent, and who calls checks every byte against a digest.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from pipeline.errors import NetworkError, TrustError, UsageError
from pipeline.files import format_size
from pipeline.store.base import ChangedError, Info, MissingError, check_key
from pipeline.store.http_errors import Again, Patience, reason
from pipeline.store.http_headers import etag_of, length, modified, retry_after, unless
from pipeline.store.paced import Pace, PacedAdapter, PaceError

_PIECE = 64 << 10
_SMALL = 16 << 10  # bytes of an answer that nobody wants, worth reading to keep the connection
_REDIRECTS = 5
_PROGRESS = 1 << 20  # bytes after which a cut connection counts as the first one again
_MISSING = (403, 404, 410)  # 403: what S3 says where one may read but not list
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")
_Got = TypeVar("_Got")


@dataclass(frozen=True)
class Limits:
    """How patient a reader is.

    Attributes:
        connect: seconds to connect.
        answer: seconds between two bytes.
        pace: the least that must come over a while.
        patience: how often, and with which pauses, a failed request is repeated.
        connections: most connections that are kept open.
        span: asked before each request of a stream: the most bytes to ask for; None: all.
    """

    connect: float = 10.0
    answer: float = 20.0
    pace: Pace = field(default_factory=Pace)
    patience: Patience = field(default_factory=Patience)
    connections: int = 16
    span: Callable[[], int | None] = lambda: None


class HttpStore:
    """The objects below one URL.

    Args:
        url: ``http://`` or ``https://``, without user, query or fragment.
        limits: how patient it is.

    Raises:
        UsageError: the URL is none of those.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url} is no URL with http or https")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                f"the URL of a store on {parts.hostname} has a user, a query or a fragment",
                hint="A store is read without credentials: signatures protect what it holds.",
            )
        self._url = url.rstrip("/")
        self._limits = limits or Limits()
        self._session = _session(self._limits)

    @property
    def url(self) -> str:
        """The URL that it was made with."""
        return self._url

    def close(self) -> None:
        """Close its connections; it can be used on."""
        self._session.close()

    def __enter__(self) -> HttpStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str, *, limit: int) -> bytes:
        """See :meth:`pipeline.store.base.Reader.get`."""

        def once() -> bytes:
            with self._answer("GET", key, {}) as answer:
                return self._whole(key, answer, limit)

        return self._patiently(key, once)

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """See :meth:`pipeline.store.base.Reader.get_changed`: one request, of few bytes."""

        def once() -> tuple[bytes, str] | None:
            with self._answer("GET", key, unless(etag)) as answer:
                now = etag_of(answer.headers)
                if answer.status_code == 304 or (etag and now == etag):
                    return None
                return self._whole(key, answer, limit), now

        return self._patiently(key, once)

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See :meth:`pipeline.store.base.Reader.stream`."""
        place = _Place(start, until=None if size is None else start + size)
        failures, begin = 0, start
        while not (place.ended or place.reached):
            try:
                untold = place.etag is not None and place.total is None  # where would it end?
                yield from self._pieces(key, place, None if untold else self._limits.span())
            except Again as again:
                failures = 1 if place.at - begin >= _PROGRESS else failures + 1
                begin = place.at
                self._pause(key, again, failures)

    def find(self, key: str) -> Info | None:
        """See :meth:`pipeline.store.base.Reader.find`."""

        def once() -> Info | None:
            with self._answer("HEAD", key, {}) as answer:
                size = length(answer.headers)
                if size is None:
                    raise NetworkError(
                        f"{self._url} does not say how large {key} is",
                        hint="A store needs a web server that tells Content-Length.",
                    )
                return Info(key, size, etag_of(answer.headers), modified(answer.headers))

        try:
            return self._patiently(key, once)
        except MissingError:
            return None

    def _patiently(self, key: str, act: Callable[[], _Got]) -> _Got:
        failures = 0
        while True:
            try:
                return act()
            except Again as again:
                failures += 1
                self._pause(key, again, failures)

    def _pause(self, key: str, again: Again, failures: int) -> None:
        """Wait before a request is repeated, or give up."""
        seconds = self._limits.patience.pause(again, failures)
        if seconds is None:
            raise NetworkError(
                f"{key} cannot be read from {self._url}: {again}",
                hint="Check that the store can be reached from here, then try again.",
            ) from again
        time.sleep(seconds)

    @contextlib.contextmanager
    def _answer(
        self, method: str, key: str, headers: Mapping[str, str]
    ) -> Iterator[requests.Response]:
        """The answer to one request, 200, 206, 304 or 416; what follows may raise `Again`."""
        check_key(key)
        with self._told(key):
            answer = self._send(method, f"{self._url}/{quote(key)}", headers)
            try:
                self._check(key, answer, headers)
                yield answer
            finally:
                _discard(answer)

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        limits = self._limits
        for _ in range(_REDIRECTS + 1):
            answer = self._session.request(
                method,
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(limits.connect, limits.answer),
            )
            if not answer.is_redirect:
                return answer
            _discard(answer)
            url = _redirected(url, answer.headers["Location"])
        raise NetworkError(f"{self._url} redirects more than {_REDIRECTS} times")

    def _check(self, key: str, answer: requests.Response, sent: Mapping[str, str]) -> None:
        status = answer.status_code
        expected = {200}
        expected |= {206, 416} if "Range" in sent else set()
        expected |= {304} if "If-None-Match" in sent or "If-Modified-Since" in sent else set()
        if status in _MISSING:
            raise MissingError(key, self._url)
        if status in _AGAIN:
            raise Again(f"the server answers {status} {answer.reason}", retry_after(answer.headers))
        if status not in expected:
            hint = "It must be readable without credentials." if status in (401, 407) else ""
            raise NetworkError(
                f"{key} cannot be read from {self._url}: the server answers {status} "
                f"{answer.reason}",
                hint=hint,
            )
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise NetworkError(
                f"{self._url} sends {key} compressed, which nobody asked for",
                hint="Switch compression off on that web server: objects are compressed already.",
            )

    def _whole(self, key: str, answer: requests.Response, limit: int) -> bytes:
        size = length(answer.headers) or 0
        data = bytearray()
        if size <= limit:
            for piece in _body(answer):
                data += piece
                if len(data) > limit:
                    break
        if max(size, len(data)) > limit:
            raise TrustError(
                f"{key} in {self._url} is larger than {format_size(limit)}, which is the most "
                "that it may have"
            )
        return bytes(data)

    def _pieces(self, key: str, place: _Place, span: int | None) -> Iterator[bytes]:
        """What comes in one answer, from *place* on; raises `Again` if it was not all."""
        with self._answer("GET", key, place.headers(span)) as answer:
            skip = place.settle(key, self._url, answer)
            if skip is None:
                place.ended = True
                return
            for piece in _body(answer):
                wanted = place.within(piece[skip:])
                skip = max(0, skip - len(piece))
                if wanted:
                    place.at += len(wanted)
                    yield wanted
                if place.reached:
                    return
        if place.end is not None and place.at < place.end:
            raise Again("the connection was cut")
        last = span is None if place.total is None else place.at >= place.total
        place.ended = answer.status_code == 200 or last

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn the libraries' errors into `Again`, or into one that is final."""
        try:
            yield
        except PaceError as error:
            raise NetworkError(
                f"{key} cannot be read from {self._url}: {error}",
                hint="Try again later, or use another mirror of the store.",
            ) from error
        except requests.exceptions.SSLError as error:
            raise NetworkError(
                f"the connection to {self._url} is not secure: {reason(error)}",
                hint="Check this machine's clock, and the server's certificate.",
            ) from error
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,  # requests' own errors are OSErrors, too
        ) as error:
            final = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
            if isinstance(error, (*final, requests.exceptions.InvalidHeader)):
                raise NetworkError(f"{key} cannot be read from {self._url}: {error}") from error
            raise Again(reason(error)) from error


@dataclass
class _Place:
    """Where in an object a stream stands, and which object that is.

    Attributes:
        at: the next byte that is wanted.
        until: the first byte that is not wanted any more; None: the object's end.
        etag: the object's, once an answer came.
        total: its size, once an answer told it.
        end: where the bytes of the last answer end, if it told that.
        ended: is there nothing more?
    """

    at: int
    until: int | None = None
    etag: str | None = None
    total: int | None = None
    end: int | None = None
    ended: bool = False

    @property
    def reached(self) -> bool:
        """Has all come that is wanted?"""
        return self.until is not None and self.at >= self.until

    def within(self, piece: bytes) -> bytes:
        """What of *piece*, which begins at ``at``, is wanted."""
        return piece if self.until is None else piece[: max(0, self.until - self.at)]

    def headers(self, span: int | None) -> dict[str, str]:
        """What asks for the next *span* bytes (None: the rest), or for all if it has changed."""
        ends = [end for end in (self.until, None if span is None else self.at + span) if end]
        if self.at == 0 and not ends:
            return {}
        headers = {"Range": f"bytes={self.at}-{min(ends) - 1 if ends else ''}"}
        if self.etag and self.etag.startswith('"'):  # a weak one is not allowed here
            headers["If-Range"] = self.etag
        return headers

    def settle(self, key: str, url: str, answer: requests.Response) -> int | None:
        """How many bytes of the body are not wanted; None if none is wanted.

        Raises:
            ChangedError: it is another object than before.
            NetworkError: the answer is not one to what was asked.
        """
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        said = match[3] if match and answer.status_code != 200 else None
        total = int(said) if said and said != "*" else None
        if answer.status_code == 200:
            total = length(answer.headers)
        etag = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
        if answer.status_code != 416:
            other_size = None not in (total, self.total) and total != self.total
            if self.etag is not None and (etag != self.etag or other_size):
                raise self._changed(key, url)
            self.etag, self.total = etag, total if total is not None else self.total
        if answer.status_code == 200:
            self.end = total
            return None if total is not None and self.at >= total else self.at
        if answer.status_code == 416:
            if self.total is not None and total != self.total:
                raise self._changed(key, url)
            if total is None or self.at >= total:
                return None
        elif match and match[1] and int(match[1]) == self.at <= int(match[2]):
            self.end = int(match[2]) + 1
            return 0
        raise NetworkError(
            f"{url} answers with another part of {key} than was asked for",
            hint="A store needs a web server that keeps to HTTP's rules for ranges.",
        )

    def _changed(self, key: str, url: str) -> ChangedError:
        return ChangedError(
            f"{key} in {url} has changed while it was read",
            hint="Try again; if it stays so, the mirrors behind that URL differ.",
        )


def _session(limits: Limits) -> requests.Session:
    session = requests.Session()
    session.headers.clear()
    # A request has to be small; and objects are compressed already.
    session.headers.update({"User-Agent": "recast", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # A function here keeps requests from looking into ~/.netrc; proxies are still found.
    session.auth = lambda request: request
    adapter = PacedAdapter(limits.pace, connections=limits.connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise NetworkError(f"{url} redirects to what is no URL of a web server")
    if parts.scheme == "http" and urlsplit(url).scheme == "https":
        raise NetworkError(
            f"{url} redirects to {parts.hostname} without encryption",
            hint="That is refused. Mend the server, or give the store's URL as http://… if that "
            "is meant.",
        )
    return target


def _body(answer: requests.Response) -> Iterator[bytes]:
    while piece := answer.raw.read(_PIECE, decode_content=False):
        yield piece


def _discard(answer: requests.Response) -> None:
    """Give the connection back if little is left to read on it, else close it."""
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, PaceError):
        left = answer.raw.length_remaining
        if left is not None and left <= _SMALL:
            answer.raw.read(decode_content=False)
    answer.close()
