"""The contract of stores, over moto's S3 server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.store.base import Store
from pipeline.store.s3 import S3Store
from tests.contract.store_suite import StoreContract
from tests.integration.moto_s3 import bucket, moto_client, moto_url

__all__ = ["bucket", "moto_client", "moto_url"]


class TestS3Store(StoreContract):
    @pytest.fixture
    def again(self, moto_client: Any, bucket: str) -> Callable[[], Store]:
        return lambda: S3Store(bucket, "some/prefix", client=moto_client)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    def test_it_keeps_writers_apart(self, store: Store) -> None:
        """Else the tests of that would have been skipped."""
        assert store.exclusive
        assert list(store.list()) == []
