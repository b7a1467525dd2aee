"""Some ranges of an object: in few requests, whatever the link does, and nothing uncounted."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import NetworkError
from pipeline.models.pointer import StoredObject
from pipeline.store.base import ChangedError, object_key
from pipeline.transfer import ranged
from pipeline.transfer.packed import WrongError, pack
from pipeline.transfer.ranged import Link, Range, Ranges, join
from tests.fakes.store import FaultyStore, MemoryStore

DATA = random.Random(3).randbytes(5000)


@st.composite
def some_ranges(draw: st.DrawFn, most: int = 7) -> list[Range]:
    """In order, none reaching into the next; some beside each other, and gaps that are equal."""
    found: list[Range] = []
    at = 0
    for gap, size in draw(
        st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50)), max_size=most)
    ):
        at += gap * 10
        found.append((at, at + size))
        at += size
    return found


def gaps(ranges: list[Range]) -> list[int]:
    return [other[0] - one[1] for one, other in pairwise(ranges)]


@given(some_ranges(), st.integers(1, 7), st.integers(0, 40))
def test_ranges_are_joined_with_as_little_besides_as_requests_allow(
    ranges: list[Range], most: int, gap: int
) -> None:
    found = join(ranges, most, gap)
    assert len(found) <= most
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in pairwise(found)), "ordered, and apart"
    for start, end in ranges:
        assert any(one <= start and end <= other for one, other in found)
    # What has to come: what nothing that may be left out could make less.
    worth = [each for each in gaps(ranges) if each > gap]
    saved = max(
        sum(chosen)
        for count in range(min(most - 1, len(worth)) + 1)
        for chosen in combinations(worth, count)
    )
    every = ranges[-1][1] - ranges[0][0] if ranges else 0
    assert sum(end - start for start, end in found) == every - saved


def test_gaps_of_one_size_are_left_out_as_far_as_requests_allow() -> None:
    """Every second segment of what is stored as it is: nearly half of it need not come."""
    ranges = [(2 * number << 20, (2 * number + 1) << 20) for number in range(100)]
    found = join(ranges)
    assert len(found) == ranged.MOST_REQUESTS
    assert sum(end - start for start, end in found) == (199 - 23) << 20


# --- reading ----------------------------------------------------------------------------------


class Cutting(MemoryStore):
    """Gives pieces of some bytes, and fails after so many of each answer."""

    def __init__(self, piece: int, after: int) -> None:
        super().__init__()
        self.piece = piece
        self.after = after
        self.asked: list[tuple[int, int | None]] = []
        self.given = 0

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        self.asked.append((start, size))
        left = self.after
        for data in super().stream(key, start=start, size=size):
            for at in range(0, len(data), self.piece):
                piece = data[at : at + self.piece]
                if left < len(piece):
                    raise NetworkError("the connection was cut")
                left -= len(piece)
                self.given += len(piece)
                yield piece


def put(store: MemoryStore, data: bytes, encoding: str = "plain") -> StoredObject:
    name = hashlib.sha256(data).hexdigest()
    store.put(object_key(name), data, sha256=name)
    return StoredObject.model_validate({"digest": name, "size": len(data), "encoding": encoding})


@settings(max_examples=60)
@given(
    some_ranges(20), st.integers(20, 300), st.integers(300, 2000), st.randoms(use_true_random=False)
)
def test_ranges_are_read_right_over_any_link(
    ranges: list[Range], piece: int, after: int, chance: random.Random
) -> None:
    """In order, as they are meant to be; and again, and what was not told of."""
    store = Cutting(piece, after)
    link = Link(store)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranged, "_PROGRESS", 1)
        reader = Ranges(link, put(store, DATA), ranges)
        for start, end in ranges:
            middle = chance.randint(start, end)
            assert reader.read(start, middle - start) == DATA[start:middle]
            assert reader.read(middle, end - middle) == DATA[middle:end]
        assert link.received == store.given
        assert store.given == reader.size, "what was cut does not come twice"
        for _ in range(5):
            start = chance.randrange(len(DATA))
            size = chance.randint(0, len(DATA) - start)
            assert reader.read(start, size) == DATA[start : start + size]
        reader.close()
    assert link.received == store.given


def test_what_lies_behind_what_was_read_is_read_as_well() -> None:
    store = MemoryStore()
    reader = Ranges(Link(store), put(store, DATA), ())
    assert reader.read(0, 10) == DATA[:10]
    assert reader.read(10, 10) == DATA[10:20]


def test_a_link_that_brings_too_little_is_told_and_reading_can_go_on() -> None:
    store = Cutting(100, 450)
    reader = Ranges(Link(store), put(store, DATA), [(0, 2000)])
    assert reader.read(0, 400) == DATA[:400]
    with pytest.raises(NetworkError):
        reader.read(400, 1000)
    store.after = 5000
    assert reader.read(400, 1000) == DATA[400:1400]
    assert store.asked[-1] == (400, 1600)


def test_an_object_that_ends_too_early_is_wrong() -> None:
    store = MemoryStore()
    stored = put(store, DATA)
    store.corrupt(object_key(stored.digest), DATA[:1000])
    reader = Ranges(Link(store), stored, [(0, 2000)])
    assert reader.read(0, 900) == DATA[:900]
    with pytest.raises(WrongError, match="ends too early"):
        reader.read(900, 200)


def test_an_object_that_changes_while_it_is_read_is_wrong() -> None:
    class Changing(MemoryStore):
        def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
            yield from super().stream(key, start=start, size=10)
            raise ChangedError("it changed")

    store = Changing()
    reader = Ranges(Link(store), put(store, DATA), [(0, 2000)])
    with pytest.raises(WrongError, match="changes while it is read"):
        reader.read(0, 200)


# --- small objects ----------------------------------------------------------------------------


def test_a_small_object_is_what_its_digest_names() -> None:
    store = MemoryStore()
    link = Link(store)
    plain, packed = put(store, DATA), put(store, pack(DATA, 3), "zstd")
    assert link.get(plain, 5000) == DATA
    assert link.get(packed, 6000) == DATA
    assert link.received == plain.size + packed.size


@pytest.mark.parametrize("encoding", ["plain", "zstd"])
def test_a_small_object_stands_for_no_more_than_is_said(encoding: str) -> None:
    store = MemoryStore()
    stored = put(store, DATA if encoding == "plain" else pack(DATA, 3), encoding)
    with pytest.raises(WrongError):
        Link(store).get(stored, 4999)


@pytest.mark.parametrize("spoil", [lambda data: data + b"x", lambda data: data[:-1] + b"x"])
def test_a_small_object_that_is_damaged_is_asked_for_a_few_times(spoil: object) -> None:
    assert callable(spoil)
    inner = MemoryStore()
    stored = put(inner, DATA)
    inner.corrupt(object_key(stored.digest), spoil(DATA))
    store = FaultyStore(inner)
    with pytest.raises(WrongError):
        Link(store).get(stored, 5000)
    assert len(store.operations) == 3
    inner.corrupt(object_key(stored.digest), DATA)
    assert Link(store).get(stored, 5000) == DATA
