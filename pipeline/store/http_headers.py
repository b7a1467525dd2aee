"""What headers of HTTP answers say, and how a request is made conditional."""

from __future__ import annotations

import contextlib
import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime

_DIGITS = 18
_STRONG_AFTER = 60  # seconds after which a time of change cannot be that of two states (RFC 9110)


def unless(etag: str) -> dict[str, str]:
    """Headers that ask for an object only if it is not *etag* any more."""
    if etag.startswith(('"', 'W/"')):
        return {"If-None-Match": etag}
    return {"If-Modified-Since": etag} if etag and email.utils.parsedate(etag) else {}


def etag_of(headers: Mapping[str, str]) -> str:
    """The ETag; else the time of the last change, if it cannot be that of two states."""
    etag, changed, sent = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Date"))
    if etag or not (changed and sent):
        return etag
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        then, now = map(email.utils.parsedate_to_datetime, (changed, sent))
        return changed if (now - then).total_seconds() >= _STRONG_AFTER else ""
    return ""


def modified(headers: Mapping[str, str]) -> datetime:
    """When the object was last changed; 1970 if the server does not say."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return email.utils.parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC)
    return datetime.fromtimestamp(0, UTC)


def length(headers: Mapping[str, str]) -> int | None:
    """The body's size in bytes, if the server says it."""
    return whole_number(headers.get("Content-Length", ""))


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait; 0 if the server does not say."""
    text = headers.get("Retry-After", "")
    if (seconds := whole_number(text)) is not None:
        return float(seconds)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        then = email.utils.parsedate_to_datetime(text)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    return 0.0


def whole_number(text: str) -> int | None:
    """A number of few enough digits, none of them of another alphabet."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
