"""Several mirrors as one store: a dead, an empty or a broken one is passed by, and once only."""

from __future__ import annotations

import pytest

from pipeline.errors import NetworkError, TrustError, UsageError
from pipeline.store.base import MissingError, Reader, Store, object_key
from pipeline.store.mirrors import FirstOf
from pipeline.transfer.source import StoreSource
from tests.contract.store_suite import ReaderContract
from tests.fakes.places import Place, framed
from tests.fakes.store import FaultyStore, MemoryStore


class TestTheSecondOfTwo(ReaderContract):
    """The first one has nothing."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        return FirstOf([MemoryStore("empty"), store])


class TestBesideADeadOne(ReaderContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        return FirstOf([store, FaultyStore(MemoryStore(), "timeout")])

    def test_what_is_missing_is_told(self, store: Store, reader: Reader) -> None:
        """It may be there: nobody knows as long as one does not answer."""
        for read in (
            lambda: reader.find("objects/ab/y"),
            lambda: reader.get("objects/ab/y", limit=1),
            lambda: list(reader.stream("objects/ab/y")),
        ):
            with pytest.raises(NetworkError):
                read()


def mirrors(*names: str) -> list[MemoryStore]:
    made = [MemoryStore(name) for name in names]
    for each in made:
        each.create("a", b"hello")
    return made


def test_a_dead_mirror_costs_its_time_limit_once() -> None:
    first, second = mirrors("first", "second")
    dead = FaultyStore(first, "timeout")
    both = FirstOf([dead, second])
    for _ in range(5):
        assert both.get("a", limit=9) == b"hello"
    assert len(dead.operations) == 1
    assert both.url == second.url


def test_one_that_is_back_is_asked_when_the_other_one_fails() -> None:
    first, second = mirrors("first", "second")
    one, two = FaultyStore(first, "5xx", times=1), FaultyStore(second)
    both = FirstOf([one, two])
    both.get("a", limit=9)
    two.faults.add("5xx")
    assert both.get("a", limit=9) == b"hello"
    assert both.url == first.url


def test_a_stream_goes_on_where_another_mirror_was_cut() -> None:
    data = bytes(range(256)) * 20_000
    first, second = MemoryStore("first"), MemoryStore("second")
    for each in (first, second):
        each.create("big", data)

    class Cut(FaultyStore):
        def stream(self, key, *, start=0, size=None):  # type: ignore[no-untyped-def]
            for number, piece in enumerate(super().stream(key, start=start, size=size)):
                if number == 2:
                    raise NetworkError("the connection was cut")
                yield piece

    assert b"".join(FirstOf([Cut(first), second]).stream("big", start=5)) == data[5:]


def test_that_all_fail_is_told_as_the_preferred_one_tells_it() -> None:
    first, second = mirrors("first", "second")
    with pytest.raises(NetworkError, match="memory://first"):
        FirstOf([FaultyStore(first, "5xx"), FaultyStore(second, "timeout")]).get("a", limit=9)
    with pytest.raises(TrustError, match="memory://second is larger"):
        FirstOf([MemoryStore("empty"), second]).get("a", limit=1)
    with pytest.raises(MissingError, match="memory://first"):
        FirstOf([first, second]).get("b", limit=1)


def test_there_must_be_one() -> None:
    with pytest.raises(UsageError):
        FirstOf([])


def test_a_part_is_fetched_from_mirrors_of_which_each_has_a_half() -> None:
    data = b"".join(b"%d bottles\n" % number for number in range(5000))
    first, second = MemoryStore("first"), MemoryStore("second")
    release = framed(first, data, 4096)
    framed(second, data, 4096)
    part = release.parts["root"]
    assert part.stored is not None
    assert part.segments is not None
    first.delete(object_key(part.stored.digest))
    second.delete(object_key(part.segments.digest))
    target = Place(b"", len(data))
    StoreSource(FirstOf([first, second])).fill(release, "root", target, [])
    assert bytes(target.data) == data
