"""If these fail, tests of faults show less than they claim."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from pipeline.errors import DiskFullError, HostError, NetworkError, RecastError
from pipeline.store.base import ExistsError
from tests.contract.store_suite import put
from tests.fakes.store import FAULTS, Cut, Fault, FaultyStore, MemoryStore

KEY = "objects/x"
DATA = b"some bytes"


@pytest.fixture
def inner() -> MemoryStore:
    store = MemoryStore()
    put(store, KEY, DATA)
    return store


@pytest.mark.parametrize(
    ("fault", "error"),
    [("5xx", NetworkError), ("timeout", NetworkError), ("unreadable", HostError)],
)
def test_faults_of_readers(inner: MemoryStore, fault: Fault, error: type[RecastError]) -> None:
    store = FaultyStore(inner, fault)
    for read in (
        lambda: store.get(KEY, limit=99),
        lambda: store.get_changed(KEY, "", limit=99),
        lambda: list(store.stream(KEY)),
        lambda: store.find(KEY),
        lambda: list(store.list()),
    ):
        with pytest.raises(error):
            read()


@pytest.mark.parametrize(
    ("fault", "error", "effect"),
    [
        ("5xx", NetworkError, b""),
        ("timeout", NetworkError, DATA),
        ("torn write", NetworkError, DATA[:5]),
        ("read-only", HostError, b""),
        ("full disk", DiskFullError, b""),
    ],
)
def test_faults_of_writers(
    inner: MemoryStore, fault: Fault, error: type[RecastError], effect: bytes
) -> None:
    store = FaultyStore(inner, fault)
    writes: dict[str, Callable[[], object]] = {
        "a": lambda: put(store, "a", DATA),
        "b": lambda: store.create("b", DATA),
        "c": lambda: store.replace("c", DATA, etag=""),
    }
    for key, write in writes.items():
        with pytest.raises(error):
            write()
        found = inner.find(key)
        assert (inner.get(key, limit=99) if found else b"") == effect


def test_an_answer_that_was_lost_leaves_a_writer_in_doubt(inner: MemoryStore) -> None:
    store = FaultyStore(inner, "timeout", times=1)
    with pytest.raises(NetworkError):
        store.create("a", DATA)
    with pytest.raises(ExistsError):
        store.create("a", DATA)


def test_bytes_that_are_wrong_or_too_few_come_without_an_error(inner: MemoryStore) -> None:
    for fault in ("wrong bytes", "short body"):
        store = FaultyStore(inner, fault)
        found = store.get_changed(KEY, "", limit=99)
        assert found is not None
        given = [store.get(KEY, limit=99), b"".join(store.stream(KEY)), found[0]]
        assert all(data != DATA for data in given)
        assert all(len(data) == (10 if fault == "wrong bytes" else 5) for data in given)


def test_throttling_passes(inner: MemoryStore) -> None:
    store = FaultyStore(inner, "throttling")
    with pytest.raises(NetworkError, match="slow down"):
        store.get(KEY, limit=99)
    assert store.get(KEY, limit=99) == DATA


def test_a_clock_may_be_wrong(inner: MemoryStore) -> None:
    right = inner.find(KEY)
    wrong = FaultyStore(inner, "clock skew", skew=timedelta(days=-2)).find(KEY)
    assert right is not None
    assert wrong is not None
    assert right.modified - wrong.modified == timedelta(days=2)
    ahead = MemoryStore(now=lambda: datetime(2026, 1, 1, tzinfo=UTC), skew=timedelta(days=1))
    put(ahead, KEY, DATA)
    assert [info.modified.day for info in ahead.list()] == [2]


def test_a_fault_may_be_narrow(inner: MemoryStore) -> None:
    store = FaultyStore(inner, "5xx", only=["create"], keys="metadata/", times=2)
    assert store.get(KEY, limit=99) == DATA
    store.create("objects/y", DATA)
    for _ in range(2):
        with pytest.raises(NetworkError):
            store.create("metadata/1.root.json", DATA)
    store.create("metadata/1.root.json", DATA)


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_cut_is_the_end(inner: MemoryStore, cut: Literal["before", "after"]) -> None:
    store = FaultyStore(inner, cut_at=2, cut=cut)
    store.create("a", DATA)
    store.get("a", limit=99)
    with pytest.raises(Cut):
        store.create("b", DATA)
    assert (inner.find("b") is not None) == (cut == "after")
    for act in (
        lambda: store.get("a", limit=99),
        lambda: list(store.list()),
        lambda: store.delete("a"),
        lambda: store.touch("a"),
    ):
        with pytest.raises(Cut):
            act()
    assert store.operations == [("create", "a"), ("get", "a"), ("create", "b")]
    assert store.writes == 2
    assert not issubclass(Cut, Exception), "`except Exception` must not survive it"


def test_every_fault_is_spelt_right(inner: MemoryStore) -> None:
    FaultyStore(inner, *FAULTS)
    with pytest.raises(AssertionError):
        FaultyStore(inner, "tron write")  # type: ignore[arg-type]
