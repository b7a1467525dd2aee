"""The contract of stores, over those that need no server but our own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.serve import serve
from pipeline.store.base import Reader, Store
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
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


class TestLocalStoreWithoutHardLinks(StoreContract):
    """On a file system such as FAT, or some network ones."""

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        return LocalStore(tmp_path / "store")
