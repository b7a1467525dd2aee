"""If these fail, the S3 store asks AWS for something else than it means, or explains it wrongly."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DigestError, HostError, NetworkError
from pipeline.store.s3 import S3Store, make_client
from pipeline.store.s3_answers import Place, is_aws, refused, server_of, skew_of
from pipeline.store.s3_calls import Source, Window, headers
from pipeline.store.s3_upload import MAX_PARTS, PART_SIZE, part_size

KEY = "objects/ab/x"
DATA = hashlib.shake_128(b"large").digest(PART_SIZE + 100)
DIGEST = hashlib.sha256(DATA).hexdigest()
SUMS = [hashlib.sha256(DATA[:PART_SIZE]).digest(), hashlib.sha256(DATA[PART_SIZE:]).digest()]
WHOLE = base64.b64encode(hashlib.sha256(b"".join(SUMS)).digest()).decode() + "-2"
FULL = {"Bucket": "bucket", "Key": f"p/{KEY}"}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    made = make_client(region="eu-west-1")
    yield made
    made.close()


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def stub_upload(stub: Stubber, checksum: str) -> None:
    """AWS's answers to an upload whose first part is there already."""
    upload = FULL | {"UploadId": "U"}
    begun = [
        {"Key": FULL["Key"], "UploadId": i, "Initiated": when}
        for i, when in (
            ("old", datetime(2026, 1, 1, tzinfo=UTC)),
            ("U", datetime(2026, 1, 2, tzinfo=UTC)),
        )
    ]
    stub.add_response(
        "list_multipart_uploads",
        {"IsTruncated": False, "Uploads": begun},
        {"Bucket": "bucket", "Prefix": FULL["Key"]},
    )
    there = {"PartNumber": 1, "Size": PART_SIZE, "ETag": '"kms"', "ChecksumSHA256": text(SUMS[0])}
    stub.add_response("list_parts", {"IsTruncated": False, "Parts": [there]}, upload)
    stub.add_response(
        "upload_part",
        {"ETag": '"2"', "ChecksumSHA256": text(SUMS[1])},
        upload
        | {
            "PartNumber": 2,
            "Body": ANY,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": text(SUMS[1]),
        },
    )
    parts = [
        {"PartNumber": 1, "ETag": '"kms"', "ChecksumSHA256": text(SUMS[0])},
        {"PartNumber": 2, "ETag": '"2"', "ChecksumSHA256": text(SUMS[1])},
    ]
    stub.add_response(
        "complete_multipart_upload",
        {"ETag": '"x-2"', "ChecksumSHA256": checksum},
        upload | {"MultipartUpload": {"Parts": parts}},
    )


def test_parts_whose_checksums_aws_tells_are_not_sent_again(client: Any) -> None:
    found = {"ETag": '"x-2"', "ContentLength": len(DATA), "LastModified": datetime.now(UTC)}
    moved: list[int] = []
    with Stubber(client) as stub:
        stub_upload(stub, WHOLE)
        stub.add_response("head_object", found, FULL)
        S3Store("bucket", "p", client=client).put(KEY, DATA, sha256=DIGEST, progress=moved.append)
        stub.assert_no_pending_responses()
    assert sorted(moved) == [100, PART_SIZE]


def test_an_object_that_aws_put_together_wrongly_is_removed(client: Any) -> None:
    with Stubber(client) as stub:
        stub_upload(stub, text(bytes(32)) + "-2")
        stub.add_response("delete_object", {}, FULL)
        with pytest.raises(DigestError, match=KEY):
            S3Store("bucket", "p", client=client).put(KEY, DATA, sha256=DIGEST)
        stub.assert_no_pending_responses()


def test_other_bytes_than_were_sent_are_told(client: Any) -> None:
    with Stubber(client) as stub:
        stub.add_response("put_object", {"ETag": '"1"', "ChecksumSHA256": text(bytes(32))})
        with pytest.raises(DigestError, match="other bytes"):
            S3Store("bucket", client=client).put(KEY, b"x", sha256=hashlib.sha256(b"x").hexdigest())


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (None, "https://bucket.s3.eu-west-1.amazonaws.com/p/objects/ab/x"),
        ("https://s3.eu-west-1.amazonaws.com", "https://bucket.s3.eu-west-1.amazonaws.com/p/"),
        ("http://store.example:9000", "http://store.example:9000/bucket/p/objects/ab/x"),
        ("https://amazonaws.com.example", "https://amazonaws.com.example/bucket/p/"),
    ],
)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_where_it_asks(
    client: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, url: str, how: str
) -> None:
    if endpoint and not is_aws(endpoint) and how == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        made = make_client(None, "eu-west-1", attempts=1)
    else:
        made = make_client(endpoint, "eu-west-1", attempts=1)
    asked = []

    def catch(request: Any, **_: object) -> None:
        asked.append(request)
        raise ConnectionError("no network here")

    made.meta.events.register("before-send.s3", catch)
    store = S3Store("bucket", "p", client=made)
    with pytest.raises((NetworkError, ConnectionError)):
        store.put(KEY, b"x", sha256=hashlib.sha256(b"x").hexdigest())
    made.close()
    (request,) = asked
    assert request.url.startswith(url)
    assert request.headers["x-amz-checksum-sha256"].decode() == text(hashlib.sha256(b"x").digest())
    assert b"/eu-west-1/s3/" in request.headers["Authorization"]


@given(st.integers(min_value=1, max_value=5 << 40))
def test_parts_are_as_large_as_servers_take(size: int) -> None:
    part = part_size(size)
    assert -(-size // part) <= MAX_PARTS
    assert 5 << 20 <= part <= (5 << 30) + (256 << 20)
    assert part == PART_SIZE or part * MAX_PARTS < size + MAX_PARTS * (1 << 20)


@given(st.binary(max_size=300), st.data())
def test_a_window_is_a_file_of_its_part(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content)))
    size = data.draw(st.integers(0, len(content) - start))
    with Source(content) as source:
        window = Window(source, start, size)
        pieces = []
        while piece := window.read(data.draw(st.integers(1, 50))):
            pieces.append(piece)
        assert b"".join(pieces) == content[start : start + size]
        assert window.tell() == len(window) == size
        assert window.seek(-1, 2) == max(size - 1, 0)
        window.seek(0)
        assert window.read() == content[start : start + size]
        assert window.digest() == hashlib.sha256(content[start : start + size]).digest()


def test_a_window_ends_when_it_is_told() -> None:
    ended = threading.Event()
    with Source(b"hello") as source:
        window = Window(source, 0, 5, ended)
        assert window.read(2) == b"he"
        ended.set()
        with pytest.raises(CancelledError):
            window.read(2)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="gone cannot be read"):
        Source(tmp_path / "gone")


def test_only_the_timestamp_is_not_kept_by_caches() -> None:
    assert headers("metadata/timestamp.json")["CacheControl"] == "no-cache"
    for key in ("metadata/1.root.json", KEY, "other/metadata/timestamp.json"):
        assert "immutable" in headers(key)["CacheControl"]


@pytest.mark.parametrize(
    ("endpoint", "server"),
    [
        (None, "AWS"),
        ("https://s3.amazonaws.com", "AWS"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "AWS"),
        ("http://user:secret@[::1]:9000/x", "[::1]:9000"),
        ("https://amazonaws.com.evil.example", "amazonaws.com.evil.example"),
        ("https://notamazonaws.com", "notamazonaws.com"),
    ],
)
def test_which_server_it_is(endpoint: str | None, server: str) -> None:
    assert server_of(endpoint) == server
    assert is_aws(endpoint) == (server == "AWS")


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 01 Jan 1970"])
def test_a_server_without_a_clock_is_not_late(date: str) -> None:
    assert skew_of({"date": date}) == 0
    assert skew_of({}) == 0


@given(
    st.sampled_from(["put_object", "get_object", "list_objects_v2", "upload_part", "something"]),
    st.sampled_from([0, 301, 400, 401, 403, 404, 412, 429, 500, 503, 507]),
    st.sampled_from(["", "403", "AccessDenied", "SlowDown", "BadDigest", "Nothing", "NoSuchKey"]),
    st.text(max_size=2000),
)
def test_every_refusal_has_a_sentence_and_a_next_step(
    action: str, status: int, code: str, said: str
) -> None:
    error = refused(Place("bucket", "AWS"), action, KEY, status=status, code=code, said=said)
    assert "bucket" in error.message or "AWS" in error.message
    assert len(error.message) < 500
    assert "\n" not in error.message
    assert error.hint.endswith(".")
