"""What an S3 server's refusals and silences mean, in words, with what to do about them.

Pure: it is given codes and names, and knows neither credentials nor connections, so that no secret
can reach a message. Codes are those of the S3 API reference, "List of error codes", and what other
servers (Ceph, Swift, MinIO) are known to say instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from pipeline import clock
from pipeline.errors import DigestError, DiskFullError, NetworkError, RecastError, UsageError

SKEW_SECONDS = 15 * 60
"""How far a signature's time may be off; S3 refuses it from there on."""

DAMAGED = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
)
"""The server received other bytes than those that were sent; nothing was stored."""

OVERTAKEN = "Overtaken"
"""Our code for an answer to a write that names no etag: Swift's, where a younger write won."""

_WRONG_CREDENTIALS = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
_FULL = frozenset(
    {"InsufficientStorage", "QuotaExceeded", "QuotaExceededException", "XMinioStorageFull"}
)
_ELSEWHERE = frozenset(
    {"IllegalLocationConstraintException", "MovedPermanently", "PermanentRedirect", "301"}
)

_PERMISSIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "copy_object": "s3:GetObject and s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "get_object": "s3:GetObject",
    "head_bucket": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_objects_v2": "s3:ListBucket",
    "list_parts": "s3:ListMultipartUploadParts",
    "upload_part_copy": "s3:GetObject and s3:PutObject",
}
_WRITES = "s3:PutObject"  # every other action that is used here


@dataclass(frozen=True)
class Place:
    """Which store is meant.

    Attributes:
        bucket: its bucket.
        server: host and port, or ``AWS``; never holds a secret.
    """

    bucket: str
    server: str


class Said(Exception):
    """A server's refusal that the caller has asked to be told of, or that damage explains.

    Attributes:
        status: the HTTP status.
        code: the S3 error code, or the status as text where the answer had none.
        retried: was this not the answer to the first attempt? That one may have been carried out.
    """

    def __init__(self, status: int, code: str, *, retried: bool) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.retried = retried


def is_aws(endpoint: str | None) -> bool:
    """Is this endpoint, or with none given the usual one, AWS's?"""
    host = urlsplit(endpoint or "https://s3.amazonaws.com").hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def server_of(endpoint: str | None) -> str:
    """Host and port of an endpoint, without the user and password that it might hold."""
    if not endpoint or is_aws(endpoint):
        return "AWS"
    return urlsplit(endpoint).netloc.rpartition("@")[2]


def skew_of(headers: Mapping[str, str]) -> float:
    """Seconds by which the clock of who sent these headers is ahead of ours; 0 if unknown."""
    try:
        theirs = parsedate_to_datetime(headers.get("date", ""))
        return (theirs - clock.now()).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def refused(
    place: Place, action: str, key: str, *, status: int, code: str, said: str, skew: float = 0.0
) -> RecastError:
    """The error for a request that the server has answered with a refusal.

    Args:
        place: the store.
        action: what was asked, as boto3 names it: ``put_object``.
        key: the object's key in the bucket; empty for the bucket itself.
        status: the HTTP status.
        code: the S3 error code, or the status as text.
        said: the server's own words.
        skew: seconds by which the server's clock is ahead of ours, as far as it is known.
    """
    where = f"{key} in the bucket {place.bucket}" if key else f"the bucket {place.bucket}"
    if code == "RequestTimeTooSkewed" or (status == 403 and abs(skew) > SKEW_SECONDS):
        return NetworkError(
            f"{place.server} refuses our requests: its clock and this machine's differ"
            + (f" by {abs(skew) / 60:.0f} minutes" if abs(skew) > SKEW_SECONDS else " by too much"),
            hint="Set this machine's clock (`timedatectl set-ntp true`), then try again.",
        )
    if code in DAMAGED:
        return DigestError(
            f"{where} arrived damaged at {place.server}, each time it was sent",
            hint="Nothing was stored. Something on the way changes bytes: a proxy, or bad memory.",
        )
    # The answer to a HEAD has no body that could hold a code.
    if code in ("NoSuchBucket", "InvalidBucketName") or (action, status) == ("head_bucket", 404):
        return NetworkError(
            f"there is no bucket {place.bucket} at {place.server}",
            hint="Make it, or mend `store:` in images/settings.yaml (url, endpoint, region).",
        )
    if code in _WRONG_CREDENTIALS or status == 401:
        return NetworkError(
            f"{place.server} does not accept these credentials ({code})",
            hint="They are wrong or have expired. `aws sts get-caller-identity` shows whose they "
            "are; renew them where they come from.",
        )
    if code in _FULL or status == 507:
        return DiskFullError(
            f"no space is left for {where} at {place.server} ({code})",
            hint="Free some (`recast gc`), or have the quota raised; then run it again: what has "
            "been sent is kept.",
        )
    if code in _THROTTLED or status == 429:
        return NetworkError(
            f"{place.server} asks us to slow down, and still does after several tries ({code})",
            hint="Try again in a few minutes: what has been sent is kept.",
        )
    if status == 403:
        return _denied(place, action, where)
    return _strange(place, action, where, status, code, said)


def _denied(place: Place, action: str, where: str) -> NetworkError:
    lacking = _PERMISSIONS.get(action, _WRITES)
    if lacking == _WRITES:
        hint = (
            "Credentials that may only read cannot publish or promote: have "
            f"{_WRITES} allowed for them, or use those of a release engineer."
        )
    elif action in ("get_object", "head_object"):
        hint = (
            "Have s3:GetObject allowed for them, and s3:ListBucket: without that one a missing "
            "object is refused as well."
        )
    else:
        hint = f"Have {lacking} allowed for them."
    return NetworkError(
        f"these credentials may not do {lacking} on {where} at {place.server}", hint=hint
    )


def _strange(
    place: Place, action: str, where: str, status: int, code: str, said: str
) -> RecastError:
    if code in _ELSEWHERE:
        return NetworkError(
            f"the bucket {place.bucket} is in another region ({code})",
            hint="Name its region in images/settings.yaml: `store: {region: …}`.",
        )
    if status >= 500 and code != "NotImplemented":
        return NetworkError(
            f"{place.server} fails with {code} ({status}) for {where}, and still does after "
            "several tries",
            hint="Try again later: what has been sent is kept.",
        )
    words = " ".join(said.split())[:200]
    return NetworkError(
        f"{place.server} refuses {action} of {where}: {code}" + (f" ({words})" if words else ""),
        hint="Is this an S3 server? Look at `store:` in images/settings.yaml.",
    )


def no_credentials(place: Place, why: str) -> NetworkError:
    """The error for credentials that are missing, or cannot be had from where they come from."""
    return NetworkError(
        f"there are no usable credentials for {place.server} ({why})",
        hint="Give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, by a profile "
        "(AWS_PROFILE, `aws configure`), or by the role of the machine or workflow.",
    )


def unreachable(place: Place, why: str) -> NetworkError:
    """The error for a server that no connection could be made to, or none that lasted.

    Args:
        place: the store.
        why: ``nothing answers``, ``its certificate is not trusted``, …
    """
    return NetworkError(
        f"{place.server} cannot be reached: {why}",
        hint="Look at the network, and at `store:` in images/settings.yaml (endpoint). What has "
        "been sent is kept.",
    )


def broken_off(place: Place, key: str, why: str) -> NetworkError:
    """The error for an object whose bytes stopped coming, after several tries."""
    return NetworkError(
        f"{place.server} does not send {key} whole: {why}",
        hint="Try again; if it stays so, look at the server and at proxies on the way.",
    )


def misused(place: Place, why: str) -> UsageError:
    """The error for a request that our own side will not send, such as a malformed endpoint."""
    return UsageError(
        f"the store in bucket {place.bucket} cannot be used: {' '.join(why.split())[:200]}",
        hint="Mend `store:` in images/settings.yaml (url, endpoint, region).",
    )


def not_the_source(key: str, digest: str) -> DigestError:
    """The error for bytes of ours that are not what their name says."""
    return DigestError(
        f"the bytes for {key} have the digest {digest}, not the one that names them; nothing was "
        "stored",
        hint="The local file is damaged, or has changed while it was sent: build it again.",
    )


def no_s3(place: Place) -> NetworkError:
    """The error for a server that answers, and not as an S3 server does."""
    return NetworkError(
        f"what answers at {place.server} is no S3 server",
        hint="Mend `store: {endpoint: …}` in images/settings.yaml.",
    )
