"""The contract of stores over Ceph's radosgw, which keeps writers apart. See ``ceph.py``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.store.base import Store
from pipeline.store.s3 import S3Store
from pipeline.store.s3_upload import PART_SIZE
from tests.contract.store_suite import StoreContract, noise, put, race
from tests.integration.ceph import ceph_client, ceph_url

__all__ = ["ceph_client", "ceph_url"]

if os.environ.get("RECAST_TEST_CEPH") != "1":
    pytest.skip(
        "Ceph is 45 packages: set RECAST_TEST_CEPH=1 where they are installed",
        allow_module_level=True,
    )


class TestS3StoreOnCeph(StoreContract):
    @pytest.fixture
    def bucket(self, ceph_client: Any) -> str:
        name = f"recast-{uuid.uuid4().hex[:12]}"
        ceph_client.create_bucket(Bucket=name)
        return name

    @pytest.fixture
    def again(self, ceph_client: Any, bucket: str) -> Callable[[], Store]:
        return lambda: S3Store(bucket, "some/prefix", client=ceph_client)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    def test_several_may_send_one_large_object(self, store: Store) -> None:
        data = noise(3 * PART_SIZE + 1)
        assert race(3, lambda _: put(store, "objects/x", data)) == [None] * 3
        assert b"".join(store.stream("objects/x")) == data

    def test_it_keeps_writers_apart(self, store: Store) -> None:
        """Else the tests of that would have been skipped."""
        assert store.exclusive
        assert list(store.list()) == []
