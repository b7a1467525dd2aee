"""Sending one large object to S3 in parts: in parallel, checked, and taken up again after a cut.

An upload in parts (S3's multipart upload) is invisible until it is completed. One that was cut is
found again by its key; a part of it whose checksum is that of our own bytes is not sent again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from pipeline.command import Stop
from pipeline.errors import DigestError, Interrupted, NetworkError
from pipeline.store.base import Progress
from pipeline.store.s3_answers import Said, not_the_source
from pipeline.store.s3_calls import READ, Calls, Source, Window, base64_of, send

PART_SIZE = 8 << 20
"""Bytes; what is not larger is sent at once. S3 wants 5 MiB at least."""
MAX_PARTS = 1000
"""OpenStack Swift takes no more as it is delivered; S3 takes 10,000."""
WORKERS = 8
"""Parts on their way at once, over all uploads of a store."""

_MIB = 1 << 20
_COPIED_AT_ONCE = 1 << 30
_GONE = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})
_ATTEMPTS = 3


@dataclass(frozen=True)
class _Sent:
    """A part that the server has: its etag, and its checksum if the server told one."""

    size: int
    etag: str
    checksum: str | None


def _same(there: _Sent, body: Window, sha256: bytes) -> bool:
    """Is the part that the server has this one? Where it tells no checksum, its etag is the MD5."""
    if there.checksum:
        return there.checksum == base64_of(sha256)
    return there.etag.strip('"') == body.digest("md5").hex()


def part_size(size: int) -> int:
    """How long the parts of an object of *size* bytes are; the same each time, so that they fit."""
    needed = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-needed // _MIB) * _MIB)


class Upload:
    """One object on its way.

    Args:
        calls: how the server is asked.
        key: the object's key.
        source: its bytes.
        sha256: their digest, in hexadecimal.
        headers: what the object is to be kept with: Cache-Control and Content-Type.
        slots: held by each part that is on its way; shared by all uploads of a store.
    """

    def __init__(
        self,
        calls: Calls,
        key: str,
        source: Source,
        *,
        sha256: str,
        headers: Mapping[str, str],
        slots: threading.Semaphore,
        progress: Progress | None,
        stop: Stop | None,
    ) -> None:
        self._calls = calls
        self._key = key
        self._source = source
        self._sha256 = sha256
        self._headers = headers
        self._slots = slots
        self._progress = progress
        self._stop = stop or Stop()
        self._cut = threading.Event()
        self._counting = threading.Lock()
        self._counted: set[int] = set()
        size = part_size(source.size)
        starts = range(0, source.size, size)
        self._ranges = {n: (at, min(size, source.size - at)) for n, at in enumerate(starts, 1)}

    def run(self) -> None:
        """Send what the server lacks, and complete the object.

        Raises:
            DigestError: the source is not what its digest names, or it arrived damaged.
            Interrupted: a stop was asked for; what has been sent is taken up by the next upload.
            NetworkError: the server cannot be reached, or refuses.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._attempt(take_up=attempt == 0)
                return
            except Said:
                # Somebody else who sends the same object may have completed or ended it.
                if self._stored_size() == self._source.size:
                    self._count(*self._ranges)
                    return
        raise NetworkError(
            f"the upload of {self._key} was ended by somebody else, {_ATTEMPTS} times",
            hint="Is another `recast gc` or lifecycle rule at work there? Try again later.",
        )

    def _attempt(self, *, take_up: bool) -> None:
        self._cut = threading.Event()
        upload, there = self._find_cut() if take_up else ("", {})
        if not upload:
            answer = self._calls.call(
                "create_multipart_upload", self._key, ChecksumAlgorithm="SHA256", **self._headers
            )
            upload = answer["UploadId"]
        try:
            parts, checksum = self._send_parts(upload, there)
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted(
                f"stopped while {self._key} was being sent",
                hint=f"{len(self._counted)} of {len(self._ranges)} parts are at the store and are "
                "not sent again by the next upload; until then nobody sees them.",
            ) from error
        except DigestError:
            self._abort(upload)
            raise
        self._complete(upload, parts, checksum)

    def _find_cut(self) -> tuple[str, dict[int, _Sent]]:
        """The upload of this key that was begun last, and its parts; "" if there is none."""
        full = self._calls.full(self._key)
        try:
            begun = [
                upload
                for page in self._calls.pages("list_multipart_uploads", self._key, Prefix=full)
                for upload in page.get("Uploads", ())
                if upload["Key"] == full
            ]
            if not begun:
                return "", {}
            upload = str(max(begun, key=lambda found: found["Initiated"])["UploadId"])
            pages = self._calls.pages("list_parts", self._key, Key=full, UploadId=upload)
            return upload, {
                part["PartNumber"]: _Sent(part["Size"], part["ETag"], part.get("ChecksumSHA256"))
                for page in pages
                for part in page.get("Parts", ())
            }
        except (NetworkError, Said):
            # Not every server lists uploads, nor may everybody: then all is sent again.
            return "", {}

    def _send_parts(
        self, upload: str, there: Mapping[int, _Sent]
    ) -> tuple[list[dict[str, Any]], str]:
        """Send all parts but those that are *there*; their list and the checksum of it all."""
        whole = hashlib.sha256()
        futures: dict[int, Future[tuple[_Sent, bytes]]] = {}
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="s3-part") as pool:
            try:
                for number, (start, size) in self._ranges.items():
                    for at in range(start, start + size, READ):
                        self._stop.check()
                        whole.update(self._source.read(at, min(READ, start + size - at)))
                    self._take_slot()
                    sent = there.get(number)
                    futures[number] = pool.submit(self._send_part, upload, number, sent)
                    futures[number].add_done_callback(lambda _: self._slots.release())
                    self._raise_failed(futures.values())
                while wait(futures.values(), 0.2, FIRST_EXCEPTION).not_done:
                    self._stop.check()
                    self._raise_failed(futures.values())
                self._raise_failed(futures.values())
            except BaseException:
                self._cut.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if whole.hexdigest() != self._sha256:
            raise not_the_source(self._key, whole.hexdigest())
        results = {number: future.result() for number, future in futures.items()}
        listed = [
            {"PartNumber": number, "ETag": sent.etag}
            # Servers that know no checksums refuse a list with some.
            | ({"ChecksumSHA256": sent.checksum} if sent.checksum else {})
            for number, (sent, _) in results.items()
        ]
        digests = b"".join(digest for _, digest in results.values())
        return listed, base64_of(hashlib.sha256(digests).digest())

    def _take_slot(self) -> None:
        while not self._slots.acquire(timeout=0.2):
            self._stop.check()

    def _raise_failed(self, futures: Collection[Future[tuple[_Sent, bytes]]]) -> None:
        for future in futures:
            if future.done() and (error := future.exception()) is not None:
                self._stop.check()
                raise error

    def _send_part(self, upload: str, number: int, there: _Sent | None) -> tuple[_Sent, bytes]:
        start, size = self._ranges[number]
        body = Window(self._source, start, size, self._cut, self._stop)
        sha256 = body.digest()
        if there is not None and there.size == size and _same(there, body, sha256):
            self._count(number)
            return there, sha256
        answer = send(
            self._calls,
            "upload_part",
            self._key,
            body,
            sha256,
            may=_GONE,
            UploadId=upload,
            PartNumber=number,
        )
        self._count(number)
        return _Sent(size, answer["ETag"], answer.get("ChecksumSHA256")), sha256

    def _count(self, *numbers: int) -> None:
        with self._counting:
            new = [number for number in numbers if number not in self._counted]
            self._counted.update(new)
            if self._progress is not None and new:
                self._progress(sum(self._ranges[number][1] for number in new))

    def _complete(self, upload: str, parts: list[dict[str, Any]], checksum: str) -> None:
        answer = self._calls.call(
            "complete_multipart_upload",
            self._key,
            may=_GONE,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        # A checksum of parts' checksums ends with how many there are: "…-38".
        told = str(answer.get("ChecksumSHA256") or "").partition("-")[0]
        if (told and told != checksum) or self._stored_size() != self._source.size:
            self._calls.call("delete_object", self._key)
            raise DigestError(
                f"{self._key} did not arrive whole, and was removed again",
                hint="The server has lost or mixed up parts. Try again.",
            )

    def _stored_size(self) -> int:
        try:
            found = self._calls.call("head_object", self._key, may=(404,))
        except Said:
            return -1
        return int(found["ContentLength"])

    def _abort(self, upload: str) -> None:
        try:
            self._calls.call("abort_multipart_upload", self._key, may=(404,), UploadId=upload)
        except (NetworkError, Said):
            return  # it costs room until `recast gc`, and is never seen


def copy_large(calls: Calls, key: str, size: int, headers: Mapping[str, str]) -> None:
    """Copy an object onto itself in parts: at once S3 copies 5 GiB at most.

    Args:
        calls: how the server is asked.
        key: the object's key.
        size: bytes.
        headers: what the object is to be kept with.
    """
    answer = calls.call("create_multipart_upload", key, ChecksumAlgorithm="SHA256", **headers)
    upload = answer["UploadId"]
    source = {"Bucket": calls.place.bucket, "Key": calls.full(key)}
    parts = []
    for number, start in enumerate(range(0, size, _COPIED_AT_ONCE), 1):
        end = min(start + _COPIED_AT_ONCE, size) - 1
        copied = calls.call(
            "upload_part_copy",
            key,
            UploadId=upload,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={start}-{end}",
        )["CopyPartResult"]
        told = copied.get("ChecksumSHA256")
        parts.append(
            {"PartNumber": number, "ETag": copied["ETag"]}
            | ({"ChecksumSHA256": told} if told else {})
        )
    calls.call("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
