"""A store in S3, or in a server that speaks its protocol.

The one module that speaks to boto3; credentials come from boto3's own chain (environment, profile,
role), and from nowhere else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from pipeline import clock
from pipeline.command import Stop
from pipeline.errors import Interrupted, RecastError, UsageError
from pipeline.store import s3_answers as answers
from pipeline.store.base import (
    ChangedError,
    ExistsError,
    Info,
    MissingError,
    Progress,
    check_key,
)
from pipeline.store.s3_answers import Said
from pipeline.store.s3_calls import Source, Window, headers, send
from pipeline.store.s3_read import read_changed, read_stream
from pipeline.store.s3_upload import PART_SIZE, WORKERS, Upload, copy_large
from pipeline.store.s3_write import PROBES, Conditional

_LEFT_OVER = 7 * 86400.0  # seconds after which nobody takes up a cut upload any more
_COPY_LIMIT = 5 << 30  # bytes that S3 copies at once
# What an answer must hold to be that of an S3 server.
_NEEDED = {
    "create_multipart_upload": ("UploadId",),
    "get_object": ("ETag", "ContentLength"),
    "head_object": ("ETag", "ContentLength", "LastModified"),
}


def make_client(
    endpoint: str | None = None,
    region: str | None = None,
    *,
    connect_timeout: float = 10.0,
    read_timeout: float = 60.0,
    attempts: int = 6,
) -> Any:
    """A boto3 client that is set up as :class:`S3Store` needs it.

    Args:
        endpoint: URL of a server that is not AWS; what boto3's configuration says if not given.
        region: the bucket's region; likewise.
        connect_timeout: seconds.
        read_timeout: seconds without a byte.
        attempts: how often a request is made that fails, is throttled or times out; botocore
            waits up to 1, 2, 4, 8 and 16 s in between.

    Raises:
        UsageError: the endpoint is not a URL.
        NetworkError: the configuration names a profile that does not exist.
    """

    def make(aws: bool) -> Any:
        config = Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=2 * WORKERS,  # uploads, and reading beside them
            # Checksums are computed and compared here: other servers refuse botocore's trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                # For an endpoint that is named, `auto` would be by path, which AWS wants no more.
                "addressing_style": ("virtual" if endpoint else "auto") if aws else "path",
                # Servers that know no checksum headers still verify the body that was signed.
                **({} if aws else {"payload_signing_enabled": True}),
            },
            user_agent_extra="recast",
        )
        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=endpoint,
            # Servers that are not AWS have no regions, and signatures need one.
            region_name=region or session.region_name or "us-east-1",
            config=config,
        )

    place = answers.Place("", answers.server_of(endpoint))
    try:
        client = make(answers.is_aws(endpoint))
        # boto3's own configuration may name an endpoint too.
        if not endpoint and not answers.is_aws(client.meta.endpoint_url):
            client = make(aws=False)
    except ValueError as error:
        raise UsageError(
            "the store's endpoint is not a URL with http or https",
            hint="Mend `store: {endpoint: …}` in images/settings.yaml.",
        ) from error
    except boto.BotoCoreError as error:
        raise _fault(place, error) from error
    return client


class S3Store:
    """Objects below a prefix of a bucket.

    Every put carries its SHA-256, which AWS, Ceph and MinIO check; servers that know no such
    header (OpenStack Swift) check the digest in the request's signature instead. Large files go in
    parts, at most eight at once, none of them held in memory, and an upload that was cut is taken
    up again.

    ``create`` and ``replace`` are conditional writes (``If-None-Match: *`` and ``If-Match``). A
    server may refuse those, or worse, ignore them: :attr:`exclusive` finds out by colliding with
    itself. Where it is false, ``create`` and ``replace`` look first and then write: enough for a
    single writer, and no protection against a second one.

    Args:
        bucket: the bucket's name; it must exist.
        prefix: what all keys begin with, without slashes at its ends.
        endpoint: URL of a server that is not AWS.
        region: the bucket's region.
        client: a boto3 client to use instead of one that :func:`make_client` makes.

    Raises:
        UsageError: the endpoint is not a URL.
        NetworkError: boto3's configuration names a profile that does not exist.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        client: Any = None,
    ) -> None:
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = client if client is not None else make_client(endpoint, region)
        self.place = answers.Place(bucket, answers.server_of(self._client.meta.endpoint_url))
        self._slots = threading.BoundedSemaphore(WORKERS)
        self._conditional = Conditional(self, self._slots)
        self._bucket_seen = False

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, with the server's name where that is not AWS."""
        url = f"s3://{self.place.bucket}/{self._prefix}".rstrip("/")
        return url if self.place.server == "AWS" else f"{url} at {self.place.server}"

    @property
    def exclusive(self) -> bool:
        """Does the server make writes depend on what is there?

        Asked once, by writing in vain over an object that is made for this and removed again;
        then remembered. Needs the right to write and delete below ``probe/``.

        Raises:
            NetworkError: the server cannot be reached, or does not let us write at all.
        """
        return self._conditional.exclusive

    # --- reading -------------------------------------------------------------------------------

    def get(self, key: str, *, limit: int) -> bytes:
        """See :meth:`pipeline.store.base.Reader.get`."""
        got = read_changed(self, check_key(key), "", limit)
        assert got is not None  # no etag was given that could match
        return got[0]

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        """See :meth:`pipeline.store.base.Reader.get_changed`."""
        return read_changed(self, check_key(key), etag, limit)

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See :meth:`pipeline.store.base.Reader.stream`."""
        return read_stream(self, check_key(key), start, size)

    def find(self, key: str) -> Info | None:
        """See :meth:`pipeline.store.base.Reader.find`."""
        try:
            found = self.call("head_object", check_key(key), may=(404,))
        except Said:
            if not self._bucket_seen:  # the answer to a HEAD does not say what is missing
                self.call("head_bucket", "")
                self._bucket_seen = True
            return None
        return Info(key, found["ContentLength"], found["ETag"], found["LastModified"])

    def list(self, prefix: str = "") -> Iterator[Info]:
        """See :meth:`pipeline.store.base.Store.list`. What is no key of a store is passed over."""
        for page in self.pages("list_objects_v2", prefix, Prefix=self.full(prefix)):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                try:
                    check_key(key)
                except UsageError:
                    continue
                yield Info(key, found["Size"], found["ETag"], found["LastModified"])

    # --- writing -------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        """See :meth:`pipeline.store.base.Store.put`."""
        check_key(key)
        stop = stop or Stop()
        stop.check()
        with Source(source) as opened:
            if opened.size > PART_SIZE:
                Upload(
                    self,
                    key,
                    opened,
                    sha256=sha256,
                    headers=headers(key),
                    slots=self._slots,
                    progress=progress,
                    stop=stop,
                ).run()
                return
            try:
                self._put_small(key, Window(opened, 0, opened.size, stop), sha256)
            except CancelledError:
                raise Interrupted(f"stopped while {key} was being sent") from None
            if progress is not None:
                progress(opened.size)

    def _put_small(self, key: str, body: Window, sha256: str) -> None:
        digest = body.digest()
        if digest.hex() != sha256:
            raise answers.not_the_source(key, digest.hex())
        with self._slots:
            send(self, "put_object", key, body, digest, **headers(key))

    def create(self, key: str, data: bytes) -> None:
        """See :meth:`pipeline.store.base.Store.create`; atomic only if :attr:`exclusive`."""
        check_key(key)
        exists = ExistsError(
            f"there is a {key} in {self.url} already", hint="Somebody else was first: look again."
        )
        condition = {"IfNoneMatch": "*"}
        if not self.exclusive:
            condition = {}
            if self.find(key) is not None:
                raise exists
        try:
            self._conditional.write(key, data, headers(key), **condition)
        except Said as said:
            if said.status in (409, 412):
                raise exists from None
            raise self._explained(said, key) from None

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        """See :meth:`pipeline.store.base.Store.replace`; atomic only if :attr:`exclusive`."""
        check_key(key)
        changed = ChangedError(
            f"{key} in {self.url} was changed by somebody else meanwhile", hint="Look again."
        )
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        if not self.exclusive:
            condition = {}
            found = self.find(key)
            if (found.etag if found else "") != etag:
                raise changed
        try:
            return self._conditional.write(key, data, headers(key), **condition)
        except Said as said:
            if said.status in (404, 409, 412):
                raise changed from None
            raise self._explained(said, key) from None

    def _explained(self, said: Said, key: str) -> RecastError:
        return answers.refused(
            self.place, "put_object", key, status=said.status, code=said.code, said=""
        )

    def touch(self, key: str) -> None:
        """See :meth:`pipeline.store.base.Store.touch`: the server copies it onto itself."""
        found = self.find(key)
        if found is None:
            raise MissingError(key, self.url)
        if found.size > _COPY_LIMIT:
            copy_large(self, key, found.size, headers(key))
            return
        try:
            self.call(
                "copy_object",
                key,
                may=(404,),
                CopySource={"Bucket": self.place.bucket, "Key": self.full(key)},
                MetadataDirective="REPLACE",
                ChecksumAlgorithm="SHA256",
                **headers(key),
            )
        except Said:
            raise MissingError(key, self.url) from None

    def delete(self, key: str) -> None:
        """See :meth:`pipeline.store.base.Store.delete`."""
        with contextlib.suppress(Said):
            self.call("delete_object", check_key(key), may=(404,))

    def tidy(self, *, older: float = _LEFT_OVER) -> int:
        """Remove what nobody sees: uploads that were cut, and probes.

        Args:
            older: seconds since they were begun.

        Returns:
            How many were removed.

        Raises:
            NetworkError: the server cannot be reached, or refuses.
        """
        before = clock.now() - timedelta(seconds=older)
        ended = 0
        for page in self.pages("list_multipart_uploads", "", Prefix=self._prefix):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] > before:
                    continue
                key = upload["Key"].removeprefix(self._prefix)
                with contextlib.suppress(Said):
                    self.call(
                        "abort_multipart_upload", key, may=(404,), UploadId=upload["UploadId"]
                    )
                ended += 1
        for probe in self.list(PROBES):
            if probe.modified <= before:
                self.delete(probe.key)
                ended += 1
        return ended

    # --- asking the server; see pipeline.store.s3_calls.Calls ----------------------------------

    def full(self, key: str) -> str:
        """The key as it is in the bucket."""
        return self._prefix + key

    def call(
        self, action: str, key: str, *, may: Collection[int | str] = (), **parameters: Any
    ) -> dict[str, Any]:
        """Ask the server; statuses and codes in *may* raise :class:`Said`, others are explained."""
        if key:
            parameters["Key"] = self.full(key)
        try:
            answer: dict[str, Any] = getattr(self._client, action)(
                Bucket=self.place.bucket, **parameters
            )
        except (boto.ClientError, boto.BotoCoreError, ResponseParserError) as error:
            raise self._failed(error, action, key, may) from error
        if any(name not in answer for name in _NEEDED.get(action, ())):
            raise answers.no_s3(self.place)
        return answer

    def pages(self, action: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Ask for a list, page by page; *key* is for messages alone."""
        paginator = self._client.get_paginator(action)
        try:
            for page in paginator.paginate(Bucket=self.place.bucket, **parameters):
                if "IsTruncated" not in page:
                    raise answers.no_s3(self.place)
                yield page
        except (boto.ClientError, boto.BotoCoreError, ResponseParserError) as error:
            raise self._failed(error, action, key, ()) from error

    def _failed(
        self, error: Exception, action: str, key: str, may: Collection[int | str]
    ) -> Exception:
        if not isinstance(error, boto.ClientError):
            return _fault(self.place, error)
        said = error.response.get("Error", {})
        about = error.response.get("ResponseMetadata", {})
        status, code = int(about.get("HTTPStatusCode", 0)), str(said.get("Code", ""))
        # A missing bucket answers 404 too, and is never what a caller means by that.
        if (status in may and code not in ("NoSuchBucket", *answers.DAMAGED)) or code in may:
            return Said(status, code, retried=about.get("RetryAttempts", 0) > 0)
        return answers.refused(
            self.place,
            action,
            self.full(key) if key else "",
            status=status,
            code=code,
            said=str(said.get("Message", "")),
            skew=answers.skew_of(about.get("HTTPHeaders", {})),
        )


def _fault(place: answers.Place, error: Exception) -> RecastError:
    """The error for a request that got no answer. Its text is ours: botocore's holds addresses."""
    match error:
        case (
            boto.NoCredentialsError()
            | boto.PartialCredentialsError()
            | boto.CredentialRetrievalError()
            | boto.ProfileNotFound()
            | boto.ConfigParseError()
            | boto.SSOError()
        ):
            return answers.no_credentials(place, type(error).__name__)
        case boto.ParamValidationError() | boto.InvalidRegionError():
            return answers.misused(place, str(error))
        case boto.SSLError():
            return answers.unreachable(place, "its certificate is not trusted, or TLS fails")
        case boto.ProxyConnectionError():
            return answers.unreachable(place, "the proxy that the environment names does not help")
        case boto.ReadTimeoutError():
            return answers.unreachable(place, "it takes requests and does not answer them")
        case boto.ConnectTimeoutError() | boto.EndpointConnectionError():
            return answers.unreachable(place, "nothing answers at that address")
        case boto.HTTPClientError():
            return answers.unreachable(place, "it breaks off connections")
        case ResponseParserError():
            return answers.no_s3(place)
    return answers.unreachable(place, f"botocore says {type(error).__name__}")
