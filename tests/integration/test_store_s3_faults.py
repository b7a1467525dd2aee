"""What the S3 store sends, and what it does when a server or the way to it fails."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest

from pipeline.command import Stop
from pipeline.errors import DigestError, DiskFullError, Interrupted, NetworkError, RecastError
from pipeline.store import s3, s3_read, s3_upload
from pipeline.store.base import ChangedError, ExistsError, MissingError
from pipeline.store.s3 import S3Store, make_client
from tests.contract.store_suite import MEBIBYTE, noise, put, race
from tests.fakes.proxy import Fault, Proxy, Seen
from tests.integration.moto_s3 import SECRETS, aws, bucket, moto_client, moto_url

__all__ = ["aws", "bucket", "moto_client", "moto_url"]

KEY = "objects/ab/x"
LARGE = noise(3 * s3_upload.PART_SIZE + 1234, "large")
DIGEST = hashlib.sha256(LARGE).hexdigest()
PARTS = 4
LIMIT = 64 * MEBIBYTE


@pytest.fixture
def proxy(moto_url: str) -> Iterator[Proxy]:
    with Proxy(moto_url).running() as running:
        yield running


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing between two attempts: that it is tried again is what matters here."""
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0
    )
    monkeypatch.setattr("pipeline.store.s3_calls.time.sleep", lambda seconds: None)


@pytest.fixture
def open_store(aws: None, proxy: Proxy, bucket: str) -> Iterator[Callable[..., S3Store]]:
    clients = []

    def make(**settings: Any) -> S3Store:
        clients.append(make_client(proxy.url, **settings))
        return S3Store(bucket, "p", client=clients[-1])

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def store(open_store: Callable[..., S3Store]) -> S3Store:
    return open_store(attempts=3)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def parts_of(data: bytes) -> list[bytes]:
    return [data[at : at + s3_upload.PART_SIZE] for at in range(0, len(data), s3_upload.PART_SIZE)]


def sent_parts(proxy: Proxy) -> list[int]:
    """The numbers of the parts that were sent so far, sorted."""
    puts = proxy.find("PUT", query="partNumber")
    return sorted(int(re.findall(r"partNumber=(\d+)", seen.query)[0]) for seen in puts)


def uploads(client: Any, bucket: str) -> list[Any]:
    return list(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


# --- what is sent --------------------------------------------------------------------------------


def test_a_small_object_is_one_request_with_its_checksum(store: S3Store, proxy: Proxy) -> None:
    put(store, KEY, b"hello")
    (seen,) = proxy.seen
    assert (seen.method, seen.size) == ("PUT", 5)
    assert seen.headers["x-amz-checksum-sha256"] == checksum(b"hello")
    # What a server verifies that knows no checksums: the body is part of the signature.
    assert seen.headers["x-amz-content-sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert "immutable" in seen.headers["cache-control"]
    assert "if-none-match" not in seen.headers
    assert seen.path.endswith("/p/objects/ab/x")


def test_the_one_object_that_changes_is_not_cached(store: S3Store, proxy: Proxy) -> None:
    assert store.exclusive
    store.replace("metadata/timestamp.json", b"{}", etag="")
    (seen,) = proxy.find("PUT", "timestamp.json")
    assert seen.headers["cache-control"] == "no-cache"
    assert seen.headers["content-type"] == "application/json"


def test_the_server_is_told_the_condition(store: S3Store, proxy: Proxy) -> None:
    store.create("metadata/1.root.json", b"{}")
    (seen,) = proxy.find("PUT", "1.root.json")
    assert seen.headers["if-none-match"] == "*"
    etag = store.replace("metadata/timestamp.json", b"1", etag="")
    store.replace("metadata/timestamp.json", b"2", etag=etag)
    first, second = proxy.find("PUT", "timestamp.json")
    assert first.headers["if-none-match"] == "*"
    assert second.headers["if-match"] == etag
    assert "if-none-match" not in second.headers


def test_a_large_object_goes_in_parts(store: S3Store, proxy: Proxy, large: Path) -> None:
    moved: list[int] = []
    store.put(KEY, large, sha256=DIGEST, progress=moved.append)
    assert b"".join(store.stream(KEY)) == LARGE
    assert sorted(moved) == sorted(len(part) for part in parts_of(LARGE))
    assert sent_parts(proxy) == [1, 2, 3, 4]
    sums = {checksum(part) for part in parts_of(LARGE)}
    assert {s.headers["x-amz-checksum-sha256"] for s in proxy.find("PUT")} == sums
    (begun,) = proxy.find("POST", query="uploads")
    assert begun.headers["x-amz-checksum-algorithm"] == "SHA256"
    assert "immutable" in begun.headers["cache-control"]
    assert len(proxy.find("POST", query="uploadId")) == 1


def test_a_large_object_from_memory(store: S3Store) -> None:
    put(store, KEY, LARGE)
    assert b"".join(store.stream(KEY)) == LARGE


# --- uploads that are cut ------------------------------------------------------------------------


def test_a_cut_upload_is_taken_up(
    store: S3Store, proxy: Proxy, large: Path, moto_client: Any, bucket: str
) -> None:
    proxy.fault(Fault.REFUSED, query="partNumber=3", times=inf)
    with pytest.raises(NetworkError, match="fails with InternalError"):
        store.put(KEY, large, sha256=DIGEST)
    assert store.find(KEY) is None
    assert list(store.list()) == []
    (begun,) = uploads(moto_client, bucket)
    there = moto_client.list_parts(Bucket=bucket, Key=begun["Key"], UploadId=begun["UploadId"])
    arrived = [part["PartNumber"] for part in there["Parts"]]
    assert arrived
    proxy.behave()
    proxy.seen.clear()
    moved: list[int] = []
    store.put(KEY, large, sha256=DIGEST, progress=moved.append)
    assert sent_parts(proxy) == [n for n in (1, 2, 3, 4) if n not in arrived]
    assert sum(moved) == len(LARGE)
    assert b"".join(store.stream(KEY)) == LARGE
    assert uploads(moto_client, bucket) == []


def test_a_part_that_is_damaged_at_the_store_is_sent_again(
    store: S3Store, proxy: Proxy, large: Path, moto_client: Any, bucket: str
) -> None:
    there = {"Bucket": bucket, "Key": f"p/{KEY}"}
    upload = moto_client.create_multipart_upload(**there)["UploadId"]
    parts = parts_of(LARGE)
    for number, body in ((1, parts[0]), (2, b"x" * len(parts[1])), (4, parts[3][:-1])):
        moto_client.upload_part(**there, UploadId=upload, PartNumber=number, Body=body)
    store.put(KEY, large, sha256=DIGEST)
    assert sent_parts(proxy) == [2, 3, 4]
    assert b"".join(store.stream(KEY)) == LARGE


def test_the_upload_of_another_key_is_left_alone(
    store: S3Store, proxy: Proxy, large: Path, moto_client: Any, bucket: str
) -> None:
    other = {"Bucket": bucket, "Key": f"p/{KEY}yz"}
    upload = moto_client.create_multipart_upload(**other)["UploadId"]
    moto_client.upload_part(**other, UploadId=upload, PartNumber=1, Body=parts_of(LARGE)[0])
    store.put(KEY, large, sha256=DIGEST)
    assert sent_parts(proxy) == [1, 2, 3, 4]
    assert [left["Key"] for left in uploads(moto_client, bucket)] == [other["Key"]]


@pytest.mark.parametrize("status", [403, 501])
def test_who_may_not_look_for_cut_uploads_sends_it_all(
    store: S3Store, proxy: Proxy, large: Path, status: int
) -> None:
    code = {403: "AccessDenied", 501: "NotImplemented"}[status]
    proxy.fault(Fault.REFUSED, method="GET", query="uploads", status=status, code=code, times=inf)
    store.put(KEY, large, sha256=DIGEST)
    assert b"".join(store.stream(KEY)) == LARGE


def test_a_stop_leaves_an_upload_to_be_taken_up(
    store: S3Store, proxy: Proxy, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "WORKERS", 1)
    stop = Stop()
    with pytest.raises(Interrupted) as caught:
        store.put(KEY, large, sha256=DIGEST, progress=lambda size: stop.set(), stop=stop)
    assert "of 4 parts are at the store" in caught.value.hint
    assert store.find(KEY) is None
    before = sent_parts(proxy)
    assert 1 <= len(before) < PARTS
    proxy.seen.clear()
    store.put(KEY, large, sha256=DIGEST)
    assert len(sent_parts(proxy)) < PARTS
    assert b"".join(store.stream(KEY)) == LARGE


def test_a_stop_does_not_wait_for_a_server_that_stalls(
    open_store: Callable[..., S3Store], proxy: Proxy, large: Path
) -> None:
    """No longer than one read may take; it is not tried again."""
    stop = Stop()
    proxy.fault(Fault.STALL, query="partNumber=2", times=inf)
    store = open_store(attempts=50, read_timeout=0.5)
    with pytest.raises(Interrupted):
        store.put(KEY, large, sha256=DIGEST, progress=lambda size: stop.set(), stop=stop)
    assert sent_parts(proxy).count(2) < 10


def test_a_stop_ends_a_small_upload(store: S3Store, proxy: Proxy) -> None:
    class Late(Stop):
        """Set while the bytes are on their way: they are hashed and signed before."""

        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 20

    data, stop = bytes(4 * MEBIBYTE), Late()
    with pytest.raises(Interrupted, match=KEY):
        store.put(KEY, data, sha256=hashlib.sha256(data).hexdigest(), stop=stop)
    assert stop.asked == 21
    assert proxy.find("PUT") == []
    assert store.find(KEY) is None


def test_a_large_file_that_is_not_its_digest_leaves_nothing(
    store: S3Store, large: Path, moto_client: Any, bucket: str
) -> None:
    with pytest.raises(DigestError, match=KEY):
        store.put(KEY, large, sha256="0" * 64)
    assert store.find(KEY) is None
    assert uploads(moto_client, bucket) == []


def test_a_lost_answer_to_the_last_step_is_no_failure(
    store: S3Store, proxy: Proxy, large: Path
) -> None:
    proxy.fault(Fault.LOST_ANSWER, method="POST", query="uploadId")
    moved: list[int] = []
    store.put(KEY, large, sha256=DIGEST, progress=moved.append)
    assert sum(moved) == len(LARGE)
    assert b"".join(store.stream(KEY)) == LARGE


def test_an_upload_that_somebody_else_ends_begins_again(
    store: S3Store, proxy: Proxy, large: Path, moto_client: Any, bucket: str
) -> None:
    proxy.fault(Fault.REFUSED, method="PUT", query="partNumber=2", status=404, code="NoSuchUpload")
    store.put(KEY, large, sha256=DIGEST)
    assert b"".join(store.stream(KEY)) == LARGE


def test_several_may_send_one_large_object(store: S3Store, large: Path) -> None:
    outcomes = race(3, lambda _: store.put(KEY, large, sha256=DIGEST))
    assert outcomes == [None] * 3
    assert b"".join(store.stream(KEY)) == LARGE


def test_what_is_left_over_is_tidied_up(store: S3Store, moto_client: Any, bucket: str) -> None:
    for key in (f"p/{KEY}", "another/store's"):
        moto_client.create_multipart_upload(Bucket=bucket, Key=key)
    put(store, "probe/0123", b"of a probe that was killed")
    put(store, KEY, b"hello")
    assert store.tidy(older=0) == 2
    assert [left["Key"] for left in uploads(moto_client, bucket)] == ["another/store's"]
    assert [info.key for info in store.list()] == [KEY]


# --- a way that fails ----------------------------------------------------------------------------

PASSING = [
    (Fault.REFUSED, 500, "InternalError"),
    (Fault.REFUSED, 503, "SlowDown"),
    (Fault.REFUSED, 503, "ServiceUnavailable"),
    (Fault.REFUSED, 429, "TooManyRequests"),
    (Fault.NO_ANSWER, 0, ""),
    (Fault.LOST_ANSWER, 0, ""),
]


@pytest.mark.parametrize(("fault", "status", "code"), PASSING)
def test_a_fault_that_passes_is_not_noticed(
    store: S3Store, proxy: Proxy, large: Path, fault: Fault, status: int, code: str
) -> None:
    for method, query in (("PUT", ""), ("GET", ""), ("POST", "uploads"), ("PUT", "partNumber=2")):
        proxy.fault(fault, method=method, query=query, times=2, status=status, code=code)
    put(store, "small", b"hello")
    assert store.get("small", limit=LIMIT) == b"hello"
    store.put(KEY, large, sha256=DIGEST)
    assert b"".join(store.stream(KEY)) == LARGE
    assert [info.key for info in store.list()] == [KEY, "small"]


def test_a_lost_answer_to_a_conditional_write_is_no_conflict(store: S3Store, proxy: Proxy) -> None:
    """The second attempt is refused because the first one was carried out."""
    assert store.exclusive
    proxy.fault(Fault.LOST_ANSWER, method="PUT", path="1.root")
    store.create("metadata/1.root.json", b"mine")
    proxy.fault(Fault.LOST_ANSWER, method="PUT", path="timestamp")
    etag = store.replace("metadata/timestamp.json", b"1", etag="")
    proxy.fault(Fault.LOST_ANSWER, method="PUT", path="timestamp")
    etag = store.replace("metadata/timestamp.json", b"2", etag=etag)
    found = store.find("metadata/timestamp.json")
    assert found is not None
    assert found.etag == etag
    assert len(proxy.find("PUT", "timestamp")) == 4


def test_a_conflict_is_one_also_after_a_fault(store: S3Store, proxy: Proxy) -> None:
    """Even where the other one has written the very same bytes."""
    store.create("metadata/1.root.json", b"the same")
    for fault in (Fault.REFUSED, Fault.NO_ANSWER, Fault.LOST_ANSWER):
        proxy.fault(fault, method="PUT", path="1.root")
        with pytest.raises(ExistsError):
            store.create("metadata/1.root.json", b"the same")


def test_a_write_beside_another_waits_for_its_outcome(store: S3Store, proxy: Proxy) -> None:
    """AWS answers 409 while another conditional write to the same key is under way."""
    assert store.exclusive
    conflict = {"status": 409, "code": "ConditionalRequestConflict"}
    proxy.fault(Fault.REFUSED, method="PUT", path="1.root", times=2, **conflict)  # type: ignore[arg-type]
    store.create("metadata/1.root.json", b"x")
    proxy.fault(Fault.REFUSED, method="PUT", path="2.root", times=inf, **conflict)  # type: ignore[arg-type]
    with pytest.raises(ExistsError):
        store.create("metadata/2.root.json", b"x")


@pytest.mark.parametrize("fault", [Fault.SHORT_BODY, Fault.WRONG_BYTES])
def test_a_damaged_answer_is_asked_for_again(store: S3Store, proxy: Proxy, fault: Fault) -> None:
    put(store, "small", b"hello")
    proxy.fault(fault, method="GET", times=2)
    assert store.get("small", limit=LIMIT) == b"hello"
    proxy.fault(fault, method="GET", times=inf)
    with pytest.raises(NetworkError, match=r"does not send small whole"):
        store.get("small", limit=LIMIT)


def test_a_stream_goes_on_where_it_was_cut(store: S3Store, proxy: Proxy, large: Path) -> None:
    store.put(KEY, large, sha256=DIGEST)
    found = store.find(KEY)
    assert found is not None
    proxy.fault(Fault.SHORT_BODY, method="GET", times=3)
    assert b"".join(store.stream(KEY)) == LARGE
    first, *others = proxy.find("GET", KEY)
    assert "range" not in first.headers
    assert [seen.headers["if-match"] for seen in others] == [found.etag] * 3
    begins = [int(seen.headers["range"].split("=")[1].rstrip("-")) for seen in others]
    assert begins == sorted(begins)
    assert begins[0] == len(LARGE) // 2


def test_a_stream_that_never_goes_on_is_given_up(store: S3Store, proxy: Proxy) -> None:
    put(store, "small", b"hello")
    proxy.fault(Fault.SHORT_BODY, method="GET", times=inf)
    with pytest.raises(NetworkError, match="small"):
        list(store.stream("small"))
    assert len(proxy.find("GET")) < 20


def test_an_object_that_changes_while_it_is_read_is_told(
    store: S3Store, proxy: Proxy, moto_client: Any, bucket: str
) -> None:
    put(store, KEY, noise(2 * MEBIBYTE, "one"))
    proxy.fault(Fault.SHORT_BODY, method="GET")
    stream = store.stream(KEY)
    next(stream)
    moto_client.put_object(Bucket=bucket, Key=f"p/{KEY}", Body=noise(2 * MEBIBYTE, "two"))
    with pytest.raises(ChangedError, match=KEY):
        list(stream)


def test_a_server_that_stalls_is_left(open_store: Callable[..., S3Store], proxy: Proxy) -> None:
    store = open_store(attempts=2, read_timeout=0.3)
    put(store, KEY, b"hello")
    proxy.fault(Fault.STALL, method="GET", times=1)
    assert store.get(KEY, limit=LIMIT) == b"hello"
    proxy.fault(Fault.STALL, times=inf)
    for ask in (
        lambda: store.get(KEY, limit=LIMIT),
        lambda: put(store, KEY, b"hello"),
        lambda: list(store.list()),
        lambda: store.find(KEY),
    ):
        with pytest.raises(NetworkError, match="does not answer"):
            ask()


def test_a_server_that_drips_is_left(
    store: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_read, "_SLOW_AFTER", 0.3)
    put(store, KEY, bytes(5000))
    proxy.fault(Fault.DRIP, method="GET", times=inf)
    with pytest.raises(NetworkError, match=r"only \d+ bytes came"):
        store.get(KEY, limit=LIMIT)


def test_damage_on_the_way_there_is_told(store: S3Store, proxy: Proxy) -> None:
    damage = {"method": "PUT", "status": 400, "code": "BadDigest"}
    proxy.fault(Fault.REFUSED, times=2, **damage)  # type: ignore[arg-type]
    put(store, KEY, b"hello")
    proxy.fault(Fault.REFUSED, times=inf, **damage)  # type: ignore[arg-type]
    with pytest.raises(DigestError, match=r"arrived damaged"):
        put(store, "other", b"hello")


# --- refusals, in words --------------------------------------------------------------------------

REFUSALS = [
    (403, "AccessDenied", NetworkError, "may not do s3:PutObject on p/objects/ab/x", "only read"),
    (403, "InvalidAccessKeyId", NetworkError, "does not accept these credentials", "renew"),
    (403, "SignatureDoesNotMatch", NetworkError, "does not accept these credentials", "renew"),
    (400, "ExpiredToken", NetworkError, "does not accept these credentials", "renew"),
    (403, "RequestTimeTooSkewed", NetworkError, "clock", "timedatectl"),
    (404, "NoSuchBucket", NetworkError, "there is no bucket recast-", "endpoint"),
    (503, "SlowDown", NetworkError, "slow down, and still does", "a few minutes"),
    (500, "InternalError", NetworkError, "fails with InternalError", "kept"),
    (507, "InsufficientStorage", DiskFullError, "no space is left", "gc"),
    (400, "Strange", NetworkError, r"Strange \(as the test wants it\)", "S3 server"),
]


@pytest.mark.parametrize(("status", "code", "kind", "message", "hint"), REFUSALS)
def test_a_refusal_is_explained(
    store: S3Store,
    proxy: Proxy,
    status: int,
    code: str,
    kind: type[RecastError],
    message: str,
    hint: str,
) -> None:
    proxy.fault(Fault.REFUSED, status=status, code=code, times=inf)
    for data in (b"hello", LARGE):
        with pytest.raises(kind, match=message) as caught:
            put(store, KEY, data)
        assert hint in caught.value.hint
        told = f"{caught.value} {caught.value.hint}"
        for secret in SECRETS.values():
            assert secret not in told
    with pytest.raises(kind):
        store.create(KEY, b"x")
    with pytest.raises(kind):
        assert store.exclusive is None  # it is not known, which is neither yes nor no


def test_who_may_not_read_is_told_what_lacks(store: S3Store, proxy: Proxy, bucket: str) -> None:
    proxy.fault(Fault.REFUSED, status=403, code="AccessDenied", times=inf)
    for ask, lacking in (
        (lambda: store.get(KEY, limit=1), f"s3:GetObject on p/{KEY} in the bucket {bucket}"),
        (lambda: store.find(KEY), f"s3:GetObject on p/{KEY}"),
        (lambda: list(store.list()), f"s3:ListBucket on the bucket {bucket}"),
        (lambda: store.delete(KEY), "s3:DeleteObject"),
    ):
        with pytest.raises(NetworkError, match=lacking) as caught:
            ask()
        assert "allowed" in caught.value.hint


def test_a_clock_that_is_off_is_noticed_without_words(store: S3Store, proxy: Proxy) -> None:
    """The answer to a HEAD has no body that could name the reason."""
    proxy.fault(
        Fault.REFUSED, method="HEAD", status=403, body=b"", clock=timedelta(hours=2), times=inf
    )
    with pytest.raises(NetworkError, match=r"clock .* differ by 120 minutes"):
        store.find(KEY)


def test_a_missing_bucket_is_not_a_missing_object(aws: None, moto_url: str) -> None:
    client = make_client(moto_url)
    store = S3Store("no-such-bucket", client=client)
    for ask in (
        lambda: store.find(KEY),
        lambda: store.get(KEY, limit=1),
        lambda: list(store.list()),
        lambda: store.create(KEY, b"x"),
        lambda: put(store, KEY, LARGE),
    ):
        with pytest.raises(NetworkError, match="no bucket no-such-bucket"):
            ask()
    client.close()


def test_a_web_server_that_is_no_s3_server(store: S3Store, proxy: Proxy) -> None:
    proxy.fault(Fault.REFUSED, status=200, body=b"<html>welcome</html>", times=inf)
    for ask in (
        lambda: put(store, KEY, b"x"),
        lambda: put(store, KEY, LARGE),
        lambda: store.get(KEY, limit=100),
        lambda: store.find(KEY),
        lambda: list(store.list()),
        lambda: store.create(KEY, b"x"),
    ):
        with pytest.raises(NetworkError, match="is no S3 server"):
            ask()


def test_nobody_listens(aws: None) -> None:
    client = make_client("http://127.0.0.1:9", attempts=2)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9 cannot be reached"):
        S3Store("bucket", client=client).get(KEY, limit=1)
    client.close()


def test_no_credentials(aws: None, monkeypatch: pytest.MonkeyPatch, moto_url: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    client = make_client(moto_url)
    with pytest.raises(NetworkError, match="no usable credentials") as caught:
        S3Store("bucket", client=client).get(KEY, limit=1)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    client.close()


def test_a_profile_that_does_not_exist(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(NetworkError, match="ProfileNotFound"):
        S3Store("bucket")


# --- servers that cannot keep writers apart ------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuses", "ignores", "refuses all"])
def test_a_server_without_conditions_is_recognised(store: S3Store, proxy: Proxy, kind: str) -> None:
    if kind == "refuses":
        proxy.fault(Fault.REFUSED, method="PUT", status=501, code="NotImplemented", times=1)
    elif kind == "ignores":
        proxy.fault(Fault.UNCONDITIONAL, method="PUT", times=inf)
    else:
        _refuse_if(proxy, lambda seen: "if-match" in seen.headers)
    assert not store.exclusive
    assert not store.exclusive
    asked = len(proxy.find("PUT"))
    proxy.behave()
    assert not store.exclusive
    assert len(proxy.find("PUT")) == asked
    assert list(store.list()) == []
    # A single writer can still use it; what it reads decides.
    store.create("metadata/1.root.json", b"1")
    with pytest.raises(ExistsError):
        store.create("metadata/1.root.json", b"2")
    etag = store.replace("metadata/timestamp.json", b"1", etag="")
    with pytest.raises(ChangedError):
        store.replace("metadata/timestamp.json", b"2", etag="")
    assert store.replace("metadata/timestamp.json", b"2", etag=etag) != etag
    conditional = [s for s in proxy.find("PUT", "metadata/") if "if-none-match" in s.headers]
    assert conditional == []


def test_a_server_that_wants_etags_without_quotes_gets_them(store: S3Store, proxy: Proxy) -> None:
    """Ceph's radosgw, and DigitalOcean's Spaces, refuse the etags that they tell."""
    _refuse_if(proxy, lambda seen: seen.headers.get("if-match", "").startswith('"'))
    assert store.exclusive
    etag = store.replace("metadata/timestamp.json", b"1", etag="")
    assert etag.startswith('"')
    store.replace("metadata/timestamp.json", b"2", etag=etag)
    with pytest.raises(ChangedError):
        store.replace("metadata/timestamp.json", b"3", etag=etag)
    assert [seen.headers.get("if-match") for seen in proxy.find("PUT", "timestamp")] == [
        None,
        etag.strip('"'),
        etag.strip('"'),
    ]


def test_a_write_that_a_server_says_nothing_of_is_tried_again(store: S3Store, proxy: Proxy) -> None:
    """Ceph's radosgw fails so where two write at once."""
    assert store.exclusive
    proxy.fault(Fault.REFUSED, method="PUT", path="1.root", times=7, code="UnknownError")
    store.create("metadata/1.root.json", b"x")
    proxy.fault(Fault.REFUSED, method="PUT", path="2.root", times=inf, code="UnknownError")
    with pytest.raises(NetworkError, match="UnknownError"):
        store.create("metadata/2.root.json", b"x")


def _refuse_if(proxy: Proxy, when: Callable[[Seen], bool]) -> None:
    proxy.fault(Fault.REFUSED, status=412, code="PreconditionFailed", times=inf)
    proxy.rules[-1].when = when


def test_what_cannot_be_found_out_is_no_answer(store: S3Store, proxy: Proxy) -> None:
    proxy.fault(Fault.REFUSED, method="PUT", status=403, code="AccessDenied")
    with pytest.raises(NetworkError, match="s3:PutObject"):
        assert store.exclusive
    assert store.exclusive


# --- a bucket with other things in it ------------------------------------------------------------


def test_stores_in_one_bucket_do_not_meet(moto_client: Any, bucket: str) -> None:
    stores = [S3Store(bucket, prefix, client=moto_client) for prefix in ("a", "/ab/", "")]
    for number, store in enumerate(stores):
        put(store, f"objects/{number}", b"x")
    moto_client.put_object(Bucket=bucket, Key="a/not a key", Body=b"")
    moto_client.put_object(Bucket=bucket, Key="a/folder/", Body=b"")
    assert [[info.key for info in store.list()] for store in stores] == [
        ["objects/0"],
        ["objects/1"],
        ["a/objects/0", "ab/objects/1", "objects/2"],
    ]
    assert stores[0].find("objects/1") is None


def test_a_list_goes_over_several_pages(moto_client: Any, bucket: str) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for number in range(2100):
        backend.put_object(bucket, f"objects/{number:04d}", b"")
    keys = [info.key for info in S3Store(bucket, client=moto_client).list("objects/")]
    assert keys == [f"objects/{number:04d}" for number in range(2100)]


def test_what_is_too_large_to_be_copied_at_once_is_touched(
    store: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, KEY, LARGE)
    before = store.find(KEY)
    monkeypatch.setattr(s3, "_COPY_LIMIT", 1)
    monkeypatch.setattr(s3_upload, "_COPIED_AT_ONCE", 10 * MEBIBYTE)
    store.touch(KEY)
    after = store.find(KEY)
    assert before is not None
    assert after is not None
    assert after.modified >= before.modified
    ranges = [s.headers.get("x-amz-copy-source-range") for s in proxy.find("PUT", KEY)][-3:]
    assert ranges[0] == "bytes=0-10485759"
    assert b"".join(store.stream(KEY)) == LARGE


def test_missing_is_missing_after_all(store: S3Store) -> None:
    with pytest.raises(MissingError):
        store.touch(KEY)
    store.delete(KEY)
    assert store.find(KEY) is None


def test_its_url_names_the_server_and_no_secret(aws: None) -> None:
    client = make_client("http://user:hidden@127.0.0.1:9000")
    store = S3Store("bucket", "a/b/", client=client)
    assert store.url == "s3://bucket/a/b at 127.0.0.1:9000"
    client.close()
    assert S3Store("bucket", region="eu-west-1").url == "s3://bucket"
