"""Writes to S3 that depend on what is there, and finding out whether a server can do that."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from pipeline.errors import NetworkError
from pipeline.store.s3_answers import OVERTAKEN, Said, refused
from pipeline.store.s3_calls import Calls, Source, Window, pause, send

PROBES = "probe/"
"""Below it are the objects that a probe collides over, each for an instant."""

_REFUSED = (409, 412)
_UNKNOWN = (501, "InvalidArgument", "InvalidRequest", "NotImplemented")  # to some servers
_BESIDE = ("UnknownError",)  # Ceph's, with status 500, where AWS says 409
_TRIES = 5
_WRITER = "recast-write"  # an object's metadata that says which write made it
_OTHER_ETAG = '"00000000000000000000000000000000"'


class Conditional:
    """Creates and replaces small objects, only if nobody else did meanwhile.

    Args:
        calls: how the server is asked.
        slots: held while something is on its way.
    """

    def __init__(self, calls: Calls, slots: threading.Semaphore) -> None:
        self._calls = calls
        self._slots = slots
        self._probing = threading.Lock()
        self._found: bool | None = None
        # Ceph's gateway, and what is built on it, knows etags in If-Match without quotes alone.
        self._bare = False

    @property
    def exclusive(self) -> bool:
        """See :attr:`pipeline.store.s3.S3Store.exclusive`."""
        with self._probing:
            if self._found is None:
                self._found = self._probe()
            return self._found

    def _probe(self) -> bool:
        key = f"{PROBES}{secrets.token_hex(16)}"
        try:
            etag = self.write(key, b"first", {}, IfNoneMatch="*")
            if self._overwrites(key, IfNoneMatch="*"):
                return False
            for self._bare in (False, True):
                if self._overwrites(key, IfMatch=_OTHER_ETAG):
                    return False
                if self._overwrites(key, IfMatch=etag):
                    return True
            return False  # it refuses every condition, which is of no use either
        except Said as said:
            if said.status == 404:
                raise refused(
                    self._calls.place, "put_object", key, status=404, code=said.code, said=""
                ) from None
            return False  # it refuses conditions, as 501 NotImplemented
        finally:
            with contextlib.suppress(NetworkError, Said):  # what stays is found by `tidy`
                self._calls.call("delete_object", key, may=(404,))

    def _overwrites(self, key: str, **condition: str) -> bool:
        try:
            self.write(key, b"second", {}, **condition)
        except Said as said:
            if said.status in _REFUSED:
                return False
            raise
        return True

    def write(self, key: str, data: bytes, headers: Mapping[str, str], **condition: str) -> str:
        """Write a small object if *condition* holds; return its new etag.

        Raises:
            Said: it does not hold (409, 412, or 404 for IfMatch), or the server knows none.
            NetworkError: the server cannot be reached, or refuses for another reason.
        """
        if self._bare and "IfMatch" in condition:
            condition["IfMatch"] = condition["IfMatch"].strip('"')
        writer = secrets.token_hex(8)
        refusal: Said | None = None
        for attempt in range(_TRIES):
            pause(attempt)
            try:
                return str(self._send(key, data, headers, writer, condition)["ETag"])
            except Said as said:
                refusal = said
            # The answer to an earlier attempt may have been lost, and that write been carried out.
            overtaken = refusal.code == OVERTAKEN
            if overtaken or (refusal.status in _REFUSED and (refusal.retried or attempt)):
                found = self._head(key)
                if found.get("Metadata", {}).get(_WRITER) == writer:
                    return str(found["ETag"])
                if overtaken:
                    raise Said(412, OVERTAKEN, retried=False)
            # Another write to it is under way; who was first shows once that has ended.
            if refusal.status != 409 and refusal.code not in _BESIDE:
                break
        assert refusal is not None
        raise refusal

    def _send(
        self,
        key: str,
        data: bytes,
        headers: Mapping[str, str],
        writer: str,
        condition: Mapping[str, str],
    ) -> dict[str, Any]:
        may = (OVERTAKEN, *((404, *_REFUSED, *_UNKNOWN, *_BESIDE) if condition else ()))
        with Source(data) as source, self._slots:
            body = Window(source, 0, len(data))
            return send(
                self._calls,
                "put_object",
                key,
                body,
                body.digest(),
                may=may,
                Metadata={_WRITER: writer},
                **headers,
                **condition,
            )

    def _head(self, key: str) -> dict[str, Any]:
        try:
            return self._calls.call("head_object", key, may=(404,))
        except Said:
            return {}
