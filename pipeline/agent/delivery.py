"""Where reports are put: below a URL by HTTP, or in a folder, on a USB stick say.

What a server says is not believed here either: it gets no cookie and no credential, redirects do
not leave HTTPS, little of its answer is read, and what a captive portal answers is no receipt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from pipeline import digest
from pipeline.errors import HostError, NetworkError

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class Refusal:
    """Why a report will never be taken; *old*: for its number alone."""

    reason: str
    old: bool


Put = Callable[[str, bytes], Refusal | None]
"""Puts an object under a key; raises NetworkError or HostError where later is another chance."""

_REDIRECTS = 3
_TAKEN = (200, 201, 202, 204)
_OLD = 409
_NEVER = (400, _OLD, 413)  # no report, an old one, a large one: so it stays
_ANSWER = 500  # bytes of a refusal that are read
_SHORTEST = 0.1  # seconds
_HINTS = {
    405: "Nothing is taken there: `recast serve --checkins` takes reports, nginx with WebDAV does.",
    501: "Nothing is taken there: `recast serve --checkins` takes reports, nginx with WebDAV does.",
}


@contextlib.contextmanager
def delivery(url: str, deadline: float) -> Iterator[Put]:
    """Put objects below *url* while the block runs.

    Args:
        url: ``http(s)://…`` or ``file:///…``.
        deadline: by ``time.monotonic``; no request begins after it.
    """
    if url.startswith("file://"):
        yield _to_folder(Path(unquote(urlsplit(url).path)))
        return
    session = _session()
    try:
        yield _to_server(session, url.rstrip("/"), deadline)
    finally:
        session.close()


def _to_folder(folder: Path) -> Put:
    from pipeline.store.local import LocalStore

    def put(key: str, data: bytes) -> Refusal | None:
        if not folder.is_dir():  # else reports would fill the mount point of a stick
            raise HostError(f"there is no folder {folder}", hint="Mount what belongs there.")
        LocalStore(folder).put(key, data, sha256=digest.of_bytes(data))
        return None

    return put


def _to_server(session: requests.Session, url: str, deadline: float) -> Put:
    import requests
    import urllib3

    def put(key: str, data: bytes) -> Refusal | None:
        try:
            with _answer(session, f"{url}/{quote(key)}", data, deadline) as answer:
                return _refusal(url, answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            from pipeline.store.http_errors import reason

            raise NetworkError(f"reports cannot be sent to {url}: {reason(error)}") from error

    return put


@contextlib.contextmanager
def _answer(
    session: requests.Session, url: str, data: bytes, deadline: float
) -> Iterator[requests.Response]:
    for _ in range(_REDIRECTS + 1):
        left = deadline - time.monotonic()
        if left <= 0:
            raise NetworkError(f"the time is over in which {urlsplit(url).hostname} had to answer")
        seconds = max(left, _SHORTEST)
        with session.request(
            "PUT",
            url,
            data=data,
            headers={"Content-Type": "application/json"},
            stream=True,
            allow_redirects=False,
            timeout=(seconds, seconds),
        ) as answer:
            if answer.status_code not in (307, 308):  # of others a PUT does not stay one
                yield answer
                return
            url = _redirected(url, answer.headers.get("Location", ""))
    raise NetworkError(f"{urlsplit(url).hostname} redirects more than {_REDIRECTS} times")


def _refusal(url: str, answer: requests.Response) -> Refusal | None:
    """Why a report was refused for good; None if it was taken.

    Raises:
        NetworkError: it was not taken, and may be another time.
    """
    status = answer.status_code
    page = answer.headers.get("Content-Type", "").lower().startswith("text/html")
    if status in _TAKEN and not page:
        return None
    said = ""
    if not page:
        text = answer.raw.read(_ANSWER, decode_content=False).decode(errors="replace")
        said = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    words = f"{url} answers {status}"
    if page and status in _TAKEN:
        words += " with a page for people, which is no receipt"
    elif said:
        words += f": {said}"
    if status in _NEVER and not page:
        return Refusal(words, old=status == _OLD)
    raise NetworkError(words, hint=_HINTS.get(status, ""))


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise NetworkError(f"{url} redirects to what is no URL of a web server")
    if parts.scheme == "http" and urlsplit(url).scheme == "https":
        raise NetworkError(f"{url} redirects to {parts.hostname} without encryption")
    return target


def _session() -> requests.Session:
    """See :func:`pipeline.store.http._session`, whose rules these are."""
    from http.cookiejar import DefaultCookiePolicy

    import requests

    session = requests.Session()
    session.headers.clear()
    session.headers.update({"User-Agent": "recast", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # A function here keeps requests from looking into ~/.netrc; proxies are still found.
    session.auth = lambda request: request
    return session
