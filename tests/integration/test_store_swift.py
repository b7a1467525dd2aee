"""The contract of stores over OpenStack Swift: a server that users run, without conditions.

And what moto does not do: it checks signatures, clocks and the bytes that it receives.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DigestError, NetworkError
from pipeline.store import s3_upload
from pipeline.store.base import ChangedError, ExistsError, Store
from pipeline.store.s3 import S3Store
from tests.contract.store_suite import LIMIT, StoreContract, noise, put, race
from tests.fakes.proxy import Fault, Proxy
from tests.integration.swift import client_of, swift_client, swift_url

__all__ = ["swift_client", "swift_url"]

KEY = "objects/ab/x"
LARGE = noise(3 * s3_upload.PART_SIZE + 1234, "large")
DIGEST = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def bucket(swift_client: Any) -> str:
    name = f"recast-{uuid.uuid4().hex[:12]}"
    swift_client.create_bucket(Bucket=name)
    return name


class TestS3StoreOnSwift(StoreContract):
    @pytest.fixture
    def again(self, swift_client: Any, bucket: str) -> Callable[[], Store]:
        return lambda: S3Store(bucket, "some/prefix", client=swift_client)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    def test_it_does_not_pretend_to_keep_writers_apart(self, store: Store) -> None:
        assert not store.exclusive
        assert list(store.list()) == []

    # In place of those of the contract: here several may win, and that is what it says.

    def test_readers_see_whole_objects_alone(
        self, store: Store, again: Callable[[], Store]
    ) -> None:
        """A busy server may tell a write as a conflict; what is read is whole all the same."""
        key = "metadata/timestamp.json"
        states = [noise(50_000, str(n)) for n in range(10)]
        store.replace(key, states[0], etag="")
        done = threading.Event()

        def act(number: int) -> object:
            mine = again()
            seen = set()
            if number == 0:
                try:
                    for state in states[1:]:
                        found = mine.find(key)
                        assert found is not None
                        with contextlib.suppress(ChangedError):
                            mine.replace(key, state, etag=found.etag)
                finally:
                    done.set()
            while not done.is_set():
                with contextlib.suppress(ChangedError, NetworkError):
                    seen.add(mine.get(key, limit=LIMIT))
            seen.add(mine.get(key, limit=LIMIT))
            return seen - set(states)

        assert race(3, act) == [set()] * 3

    def test_of_many_that_create_one_wins(self, store: Store, again: Callable[[], Store]) -> None:
        stores = [again() for _ in range(self.racers)]
        datas = [noise(70_000, str(n)) for n in range(self.racers)]
        outcomes = race(self.racers, lambda n: stores[n].create("metadata/1.json", datas[n]))
        assert not any(one.exclusive for one in stores)
        assert all(o is None or isinstance(o, ExistsError) for o in outcomes)
        assert store.get("metadata/1.json", limit=LIMIT) in datas
        with pytest.raises(ExistsError):
            store.create("metadata/1.json", b"much later")

    @pytest.mark.parametrize("there", [False, True])
    def test_of_many_that_replace_one_state_one_wins(
        self, store: Store, again: Callable[[], Store], there: bool
    ) -> None:
        key = "metadata/timestamp.json"
        etag = store.replace(key, b"before", etag="") if there else ""
        stores = [again() for _ in range(self.racers)]
        outcomes = race(self.racers, lambda n: stores[n].replace(key, b"%d" % n, etag=etag))
        assert all(isinstance(outcome, (str, ChangedError)) for outcome in outcomes)
        assert store.get(key, limit=LIMIT) in [b"%d" % n for n in range(self.racers)]
        with pytest.raises(ChangedError):
            store.replace(key, b"much later", etag=etag)


def test_a_write_that_is_overtaken_is_repeated(store: S3Store, proxy: Proxy) -> None:
    """Of writes within one instant Swift keeps the younger, and answers the other in few words."""
    data = noise(1000)
    proxy.fault(Fault.REFUSED, method="PUT", times=2, status=200, body=b"")
    put(store, KEY, data)
    assert store.get(KEY, limit=LIMIT) == data
    etag = store.replace("metadata/timestamp.json", b"1", etag="")
    proxy.fault(Fault.REFUSED, method="PUT", status=200, body=b"")
    with pytest.raises(ChangedError):
        store.replace("metadata/timestamp.json", b"2", etag=etag)
    proxy.fault(Fault.REFUSED, method="PUT", status=200, body=b"")
    with pytest.raises(ExistsError):
        store.create("metadata/1.root.json", b"2")
    for _turn in range(10):
        outcomes = race(4, lambda _: put(store, "objects/many", data))
        assert outcomes == [None] * 4


@pytest.fixture
def proxy(swift_url: str) -> Iterator[Proxy]:
    with Proxy(swift_url).running() as running:
        yield running


@pytest.fixture
def store(proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0
    )
    with client_of(proxy.url) as client:
        yield S3Store(bucket, client=client)


@pytest.mark.parametrize("data", [b"hello", LARGE], ids=["small", "large"])
def test_damage_on_the_way_is_noticed_by_the_server(
    store: S3Store, proxy: Proxy, data: bytes
) -> None:
    proxy.fault(Fault.DAMAGED, method="PUT", times=2)
    put(store, KEY, data)
    assert b"".join(store.stream(KEY)) == data
    proxy.fault(Fault.DAMAGED, method="PUT", times=inf)
    with pytest.raises(DigestError, match=r"objects/other .*arrived damaged"):
        put(store, "objects/other", data)
    assert [info.key for info in store.list()] == [KEY]


def test_a_cut_upload_is_taken_up(
    store: S3Store, proxy: Proxy, tmp_path: Path, swift_client: Any, bucket: str
) -> None:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    proxy.fault(Fault.NO_ANSWER, method="PUT", query="partNumber=4", times=inf)
    with pytest.raises(NetworkError):
        store.put(KEY, path, sha256=DIGEST)
    assert list(store.list()) == []
    (begun,) = swift_client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    upload = {"Bucket": bucket, "Key": KEY, "UploadId": begun["UploadId"]}
    arrived = len(swift_client.list_parts(**upload).get("Parts", ()))
    proxy.behave()
    proxy.seen.clear()
    store.put(KEY, path, sha256=DIGEST)
    assert len(proxy.find("PUT", query="partNumber")) == 4 - arrived
    assert b"".join(store.stream(KEY)) == LARGE
    found = store.find(KEY)
    assert found is not None
    assert [(info.size, info.etag) for info in store.list()] == [(len(LARGE), found.etag)]
    store.touch(KEY)
    assert b"".join(store.stream(KEY, start=len(LARGE) - 5)) == LARGE[-5:]


def test_several_may_send_one_large_object(store: S3Store) -> None:
    assert race(3, lambda _: put(store, KEY, LARGE)) == [None] * 3
    assert b"".join(store.stream(KEY)) == LARGE


def test_what_is_left_over_is_tidied_up(store: S3Store, swift_client: Any, bucket: str) -> None:
    swift_client.create_multipart_upload(Bucket=bucket, Key=KEY)
    put(store, "probe/0123", b"of a probe that was killed")
    assert store.tidy(older=3600) == 0
    assert store.tidy(older=-3600) == 2
    assert "Uploads" not in swift_client.list_multipart_uploads(Bucket=bucket)
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("user", "password", "message"),
    [
        ("tester", "wrong", r"does not accept these credentials \(SignatureDoesNotMatch\)"),
        ("nobody", "testing", "may not do|does not accept these credentials"),
        ("reader", "testing", "may not do s3:PutObject on objects/ab/x in the bucket recast-"),
    ],
)
def test_who_may_not_is_told(
    swift_url: str, bucket: str, user: str, password: str, message: str
) -> None:
    with client_of(swift_url, user, password) as client:
        store = S3Store(bucket, client=client)
        with pytest.raises(NetworkError, match=message) as caught:
            put(store, KEY, b"hello")
        assert password not in str(caught.value)
        with pytest.raises(NetworkError):
            store.create(KEY, b"hello")
        with pytest.raises(NetworkError):
            store.get(KEY, limit=LIMIT)


def test_a_clock_that_is_off_is_told(
    swift_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore import auth

    now = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda: now() - timedelta(hours=1))
    with client_of(swift_url) as client:
        with pytest.raises(NetworkError, match="its clock and this machine's differ") as caught:
            S3Store(bucket, client=client).get(KEY, limit=LIMIT)
        assert "timedatectl" in caught.value.hint


def test_a_missing_bucket_is_told(swift_client: Any) -> None:
    store = S3Store("no-such-bucket", client=swift_client)
    for ask in (
        lambda: store.find(KEY),
        lambda: store.get(KEY, limit=LIMIT),
        lambda: put(store, KEY, b"hello"),
        lambda: put(store, KEY, LARGE),
        lambda: store.create(KEY, b"hello"),
        lambda: list(store.list()),
    ):
        with pytest.raises(NetworkError, match="there is no bucket no-such-bucket"):
            ask()
