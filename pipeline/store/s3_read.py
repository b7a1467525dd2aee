"""Reading objects from S3: whole and small, or large and in pieces, past cuts and stalls."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Iterator
from typing import Any

import urllib3.exceptions

from pipeline.errors import TrustError
from pipeline.store.base import ChangedError, MissingError
from pipeline.store.s3_answers import Said, broken_off
from pipeline.store.s3_calls import Calls, base64_of, pause

TRIES = 5
"""Times that a connection may be cut with nothing gained in between."""

_PIECE = 1 << 20
_SLOW_AFTER = 30.0  # seconds of waiting for bytes, from which on the pace counts
_SLOW = 1024  # bytes a second
_CUT = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def read_changed(calls: Calls, key: str, etag: str, limit: int) -> tuple[bytes, str] | None:
    """See :meth:`pipeline.store.base.Reader.get_changed`."""
    condition = {"IfNoneMatch": etag} if etag else {}
    why = ""
    for attempt in range(TRIES):
        pause(attempt)
        try:
            answer = calls.call(
                "get_object", key, may=(304, 404), ChecksumMode="ENABLED", **condition
            )
        except Said as said:
            if said.status == 304:
                return None
            raise MissingError(key, calls.url) from None
        size = answer["ContentLength"]
        if size > limit:
            answer["Body"].close()
            raise TrustError(
                f"{key} in {calls.url} has {size} bytes; at most {limit} are expected there",
                hint="Somebody has put something else in its place, or the server is broken.",
            )
        try:
            data = b"".join(_pieces(calls, key, answer))
        except _CUT as error:
            why = _reason(error)
            continue
        told = answer.get("ChecksumSHA256", "")
        # One that ends with "-3" is of the parts that it came in, not of the whole.
        if not told or "-" in told or told == base64_of(hashlib.sha256(data).digest()):
            return data, str(answer["ETag"])
        why = "it arrives damaged"
    raise broken_off(calls.place, key, why)


def read_stream(calls: Calls, key: str, start: int, size: int | None = None) -> Iterator[bytes]:
    """See :meth:`pipeline.store.base.Reader.stream`."""
    at, failures, why = start, 0, ""
    last = "" if size is None else str(start + size - 1)
    if size == 0:
        return
    condition: dict[str, str] = {}
    while failures < TRIES:
        pause(failures)
        wanted = {"Range": f"bytes={at}-{last}"} if at or last else {}
        try:
            answer = calls.call("get_object", key, may=(404, 412, 416), **wanted, **condition)
        except Said as said:
            if said.status == 416:  # nothing is left from there on
                return
            if said.status == 412:
                raise ChangedError(
                    f"{key} in {calls.url} was changed while it was being read",
                    hint="Try again.",
                ) from None
            raise MissingError(key, calls.url) from None
        if wanted and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            answer["Body"].close()
            raise broken_off(calls.place, key, "it ignores from where on it was asked")
        condition = {"IfMatch": answer["ETag"]}
        before = at
        try:
            for piece in _pieces(calls, key, answer):
                at += len(piece)
                yield piece
            return
        except _CUT as error:
            why = _reason(error)
            failures = 1 if at - before >= _PIECE else failures + 1
    raise broken_off(calls.place, key, why)


def _pieces(calls: Calls, key: str, answer: dict[str, Any]) -> Iterator[bytes]:
    """The body of an answer, as it arrives; raises one of `_CUT` if it ends early."""
    left: int = answer["ContentLength"]
    body = answer["Body"]
    # One read of the socket where urllib3 can do that: a server that sends a byte a minute must
    # not hold us until a whole piece is there.
    raw = body._raw_stream
    read = getattr(raw, "read1", raw.read)
    got, waited = 0, 0.0
    try:
        while left:
            began = time.monotonic()
            piece = read(min(_PIECE, left))
            waited += time.monotonic() - began
            if not piece:
                raise http.client.IncompleteRead(b"", left)
            got += len(piece)
            left -= len(piece)
            if waited > _SLOW_AFTER and got < _SLOW * waited:
                why = f"only {got} bytes came in {waited:.0f} s"
                raise broken_off(calls.place, key, why)
            yield piece
    finally:
        body.close()


def _reason(error: Exception) -> str:
    if isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return "it stalls"
    return "the connection is cut before its end"
