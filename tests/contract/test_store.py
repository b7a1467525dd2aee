"""The contract of stores, over those that need no server but our own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.serve import serve
from pipeline.store.base import Reader, Store
from pipeline.store.http import HttpStore, Limits
from pipeline.store.local import LocalStore
from pipeline.store.throttled import Throttle, ThrottledStore
from tests.contract.store_suite import ReaderContract, StoreContract
from tests.fakes.store import FaultyStore, MemoryStore


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "store")

    @pytest.fixture
    def again(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: LocalStore(tmp_path / "store")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestFaultyStoreWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore())


class TestHttpStoreBehindOurServer(ReaderContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "store")

    @pytest.fixture
    def reader(self, tmp_path: Path) -> Iterator[Reader]:
        with serve(tmp_path / "store") as server, HttpStore(server.url) as reader:
            yield reader


def generous() -> Throttle:
    """Slow enough for a wait or two in a test that reads some MiB."""
    return Throttle(lambda: 64e6)


class TestThrottledStore(ReaderContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        return ThrottledStore(store, generous())


class TestThrottledHttpStore(ReaderContract):
    """Asked for a part at a time, as a site's stores are."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "store")

    @pytest.fixture(params=[1 << 20, 100_000])
    def reader(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
        limits = Limits(span=lambda: int(request.param))
        with serve(tmp_path / "store") as server, HttpStore(server.url, limits) as reader:
            yield ThrottledStore(reader, generous())


class TestLocalStoreWithoutHardLinks(StoreContract):
    """On a file system such as FAT, or some network ones."""

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        return LocalStore(tmp_path / "store")
