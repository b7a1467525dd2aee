"""A part comes whole onto a machine: no byte that is there is fetched, none that is wrong stays."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.command import Stop
from pipeline.errors import (
    DigestError,
    DiskFullError,
    HostError,
    Interrupted,
    NetworkError,
    RecastError,
    UsageError,
)
from pipeline.models.pointer import PublishedRelease, StoredObject
from pipeline.store.base import ChangedError, MissingError, object_key
from pipeline.transfer import ranged
from pipeline.transfer.segments import Segment, digest_of, read_table
from pipeline.transfer.source import StoreSource
from tests.fakes.places import Place, framed
from tests.fakes.store import FaultyStore, MemoryStore

SEGMENT = 1000
PIECE = 100
SIGN_IN = b"\n<!DOCTYPE html><html><body>Please sign in</body></html>" * 5


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def stored_of(release: PublishedRelease) -> StoredObject:
    stored = release.parts["root"].stored
    assert stored is not None
    return stored


def key_of(release: PublishedRelease) -> str:
    return object_key(stored_of(release).digest)


def table_of(release: PublishedRelease) -> StoredObject:
    table = release.parts["root"].segments
    assert table is not None
    return table


def segments_of(store: MemoryStore, release: PublishedRelease) -> tuple[Segment, ...]:
    part, table = release.parts["root"], table_of(release)
    data = store.get(object_key(table.digest), limit=table.size)
    return read_table(data, part.size, stored_of(release).size)


@pytest.fixture(scope="module", autouse=True)
def no_gaps() -> Iterator[None]:
    """Ask for what is needed and no more: all that is here lies near to each other."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranged, "join", partial(ranged.join, gap=0))
        yield


class LinkDown(MemoryStore):
    """A store whose link is cut after so many bytes of an object; what was asked for is kept."""

    def __init__(self, after: float = float("inf")) -> None:
        super().__init__()
        self.after = after
        self.asked: list[int] = []
        self.given = 0

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        self.asked.append(start)
        for piece in super().stream(key, start=start, size=size):
            for at in range(0, len(piece), PIECE):
                small = piece[at : at + PIECE]
                self.after -= len(small)
                if self.after < 0:
                    raise NetworkError("the connection was cut")
                self.given += len(small)
                yield small


# --- the law ----------------------------------------------------------------------------------

BLOCKS = st.lists(st.sampled_from(["right", "zeros", "other", "moved"]), min_size=7, max_size=7)


def some(data: bytes, kinds: list[str]) -> bytes:
    """What may lie around: for each segment what it should be, or something else."""
    found = b""
    for number, kind in enumerate(kinds):
        block = data[number * SEGMENT : (number + 1) * SEGMENT]
        if kind == "zeros":
            block = bytes(len(block))
        elif kind == "other":
            block = noise(len(block), number)
        elif kind == "moved":
            block = block[1:] + block[:1]
        found += block
    return found


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(6 * SEGMENT + 1, 7 * SEGMENT),
    held=BLOCKS,
    lies=BLOCKS,
    compressed=st.booleans(),
    cut=st.integers(0, 8 * SEGMENT),
    seed_size=st.integers(0, 8 * SEGMENT),
)
def test_whatever_lies_around_and_whenever_it_is_cut_the_same_bytes_come_out(
    size: int, held: list[str], lies: list[str], compressed: bool, cut: int, seed_size: int
) -> None:
    data = noise(size // 2, 1) + b"beer " * size
    data = data[:size]
    store = LinkDown()
    release = framed(store, data, SEGMENT, compressed=compressed)
    segments = segments_of(store, release)
    target = Place(some(data, held), size + 50)
    behind = bytes(target.data[size:])
    seed = Place(some(data, lies)[:seed_size])

    def holds(place: Place, segment: Segment) -> bool:
        there = slice(segment.offset, segment.offset + segment.size)
        return bytes(place.data[there]) == data[there]

    missing = [segment for segment in segments if not holds(target, segment)]
    # Of each run a piece may have come that is not wanted any more.
    needed = sum(segment.stored for segment in missing) + PIECE * len(missing)
    source = StoreSource(store)

    store.after = cut
    try:
        first = source.fill(release, "root", target, [seed])
    except NetworkError:
        assert target.durable == bytes(target.data), "what is right must outlive a power cut"
        store.after = float("inf")
        source.fill(release, "root", target, [seed])
    else:
        assert first.downloaded <= needed + table_of(release).size
        assert first.reused == size - sum(segment.size for segment in missing)
    assert bytes(target.data[:size]) == data
    assert bytes(target.data[size:]) == behind, "what lies behind the part is not ours"
    assert target.durable == bytes(target.data)
    cut_off = max((segment.stored + PIECE for segment in missing), default=0)
    assert store.given <= needed + cut_off, "a verified segment was fetched twice"


# --- what is fetched and written --------------------------------------------------------------


@pytest.fixture
def data() -> bytes:
    return noise(10 * SEGMENT - 7)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_empty_place_is_filled_by_one_request(data: bytes, compressed: bool) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT, compressed=compressed)
    target = Place(b"", len(data))
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert store.asked == [0]
    assert filled.downloaded == stored_of(release).size + table_of(release).size
    assert (filled.reused, filled.written) == (0, len(data))


def test_a_second_time_nothing_is_fetched_and_nothing_written(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    target = Place(data)
    filled = StoreSource(store).fill(release, "root", target, [])
    assert store.asked == []
    assert target.writes == []
    assert (filled.reused, filled.written) == (len(data), 0)
    assert target.syncs, "a try that was killed may have left what was never synced"


def test_segments_beside_each_other_are_one_request_and_others_one_each(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    segments = segments_of(store, release)
    target = Place(data)
    for number in (1, 2, 3, 6, 9):
        target.data[number * SEGMENT] ^= 1
    StoreSource(store).fill(release, "root", target, [])
    assert store.asked == [segments[number].start for number in (1, 6, 9)]
    assert bytes(target.data) == data


def test_of_a_segment_only_the_blocks_that_differ_are_written() -> None:
    block = 64 << 10
    data = noise(15 * block + 5)
    store = MemoryStore()
    release = framed(store, data, 16 * block)
    target = Place(data)
    for at in (0, 7 * block + 3, 8 * block, 15 * block + 1):
        target.data[at] ^= 1
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert target.writes == [(0, block), (7 * block, 2 * block), (15 * block, 5)]
    assert filled.written == 3 * block + 5


def test_a_segment_is_read_whole_and_written_in_pieces_of_bounded_size() -> None:
    data = noise(5 << 20)
    store = MemoryStore()
    target = Place(b"", len(data))
    StoreSource(store).fill(framed(store, data, 1 << 20), "root", target, [])
    assert bytes(target.data) == data
    assert max(size for _, size in target.writes) <= 1 << 20
    assert target.written == len(data)


def test_an_empty_place_is_probed_and_not_read_before_it_is_written() -> None:
    """A slot of some GiB with nothing of use in it would else be read for nothing."""
    data = noise(100 * SEGMENT)
    store = MemoryStore()
    release = framed(store, data, SEGMENT)
    target, seed = Place(b"", len(data)), Place(noise(len(data), 9))
    StoreSource(store).fill(release, "root", target, [seed])
    assert bytes(target.data) == data
    assert target.read_bytes <= len(data) + 19 * SEGMENT
    assert seed.read_bytes == 0, "without deltas and chunks it is of no use"


def test_one_right_segment_at_the_start_is_enough_for_all_to_be_looked_at() -> None:
    data = noise(100 * SEGMENT)
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    target = Place(
        bytes(SEGMENT) + data[SEGMENT : 2 * SEGMENT] + bytes(SEGMENT) + data[3 * SEGMENT :]
    )
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert filled.reused == 98 * SEGMENT


def test_a_place_that_cannot_be_read_is_written(data: bytes) -> None:
    store = MemoryStore()
    target = Place(data)
    target.unreadable.add(2500)
    StoreSource(store).fill(framed(store, data, SEGMENT), "root", target, [])
    assert bytes(target.data) == data
    assert target.written == SEGMENT


def test_a_power_cut_costs_no_more_than_what_was_not_synced(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.transfer.source._UNSYNCED", 3 * SEGMENT)
    store = MemoryStore()
    target = Place(b"", len(data))
    StoreSource(store).fill(framed(store, data, SEGMENT), "root", target, [])
    assert target.syncs == 4


def test_progress_tells_what_is_right_and_what_came_over_the_link(data: bytes) -> None:
    store = MemoryStore()
    target = Place(data)
    target.data[3 * SEGMENT] ^= 1
    heard: list[tuple[int, int]] = []
    release = framed(store, data, SEGMENT)
    StoreSource(store).fill(release, "root", target, [], progress=lambda *each: heard.append(each))
    table, stored = table_of(release).size, segments_of(store, release)[3].stored
    last = SEGMENT - 7
    assert heard == [
        *((number * SEGMENT, table) for number in range(1, 9)),
        (8 * SEGMENT + last, table),
        (9 * SEGMENT + last, table + stored),
    ]


def test_a_stop_ends_it_and_what_came_stays(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    target = Place(b"", len(data))
    stop = Stop()

    def heard(right: int, _: int) -> None:
        if right >= 4 * SEGMENT:
            stop.set()

    with pytest.raises(Interrupted):
        StoreSource(store).fill(release, "root", target, [], progress=heard, stop=stop)
    assert target.durable[: 4 * SEGMENT] == data[: 4 * SEGMENT]
    store.asked.clear()
    StoreSource(store).fill(release, "root", target, [])
    assert store.asked == [segments_of(store, release)[4].start]


def test_a_part_of_one_segment_needs_no_table() -> None:
    data = noise(5000)
    store = MemoryStore()
    release = framed(store, data, 1 << 20, indexed=False)
    target = Place(b"", 6000)
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data[:5000]) == data
    assert filled.downloaded == stored_of(release).size


def test_an_empty_part_is_there_at_once() -> None:
    store = LinkDown()
    release = framed(store, b"", SEGMENT, indexed=False)
    assert StoreSource(store).fill(release, "root", Place(b"", 10), []).written == 0
    assert store.asked == []


def test_a_part_of_more_than_a_segment_without_a_table_is_refused() -> None:
    """What it must be is not known before all of it came: nothing of it could be written."""
    data = noise((1 << 20) + 1)
    store = LinkDown()
    release = framed(store, data, 1 << 20, indexed=False)
    target = Place(b"", len(data))
    with pytest.raises(DigestError, match="without a table of its segments") as caught:
        StoreSource(store).fill(release, "root", target, [])
    assert "Publish the release again" in caught.value.hint
    assert (store.asked, target.writes) == ([], [])


# --- what is not believed ---------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_wrong_segment_is_fetched_again(data: bytes, compressed: bool, times: int) -> None:
    inner = MemoryStore()
    release = framed(inner, data, SEGMENT, compressed=compressed)
    store = FaultyStore(inner, "wrong bytes", only=["stream"], times=times)
    target = Place(b"", len(data))
    StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert target.written == len(data), "what is wrong is never written"


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, at: flip(data, at + 500),
        lambda data, at: data[: at + 500],
        lambda data, at: data[:at],
        lambda data, at: data[:at] + bytes(len(data) - at),
        lambda data, at: data[:at] + data[at + 1 :] + b"x",
        lambda data, at: data[:at] + noise(100_000),
    ],
    ids=["one bit", "cut in a segment", "cut between", "zeros", "moved", "endless"],
)
def test_damage_is_named_and_what_was_right_stays(
    data: bytes, compressed: bool, spoil: Callable[[bytes, int], bytes]
) -> None:
    store = MemoryStore()
    release = framed(store, data, SEGMENT, compressed=compressed)
    segments = segments_of(store, release)
    key = key_of(release)
    store.corrupt(key, spoil(store.snapshot()[key], segments[4].start))
    watched = FaultyStore(store)
    target = Place(b"", len(data))
    with pytest.raises(DigestError) as caught:
        StoreSource(watched).fill(release, "root", target, [])
    assert key in caught.value.message
    assert "segment 5 of 10" in caught.value.message
    assert caught.value.hint
    assert target.durable == data[: 4 * SEGMENT].ljust(len(data), b"\0"), "nothing wrong is written"
    assert watched.operations.count(("stream", key)) <= 5, "tries are bounded"


def test_a_frame_that_stands_for_very_many_bytes_is_not_unpacked() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    data = bytes(SEGMENT)
    store = MemoryStore()
    good = framed(store, data, SEGMENT)
    stored = stored_of(good).model_copy(update={"size": len(bomb)})
    part = good.parts["root"].model_copy(update={"stored": stored, "segments": None})
    store.corrupt(object_key(stored.digest), bomb)
    bad = good.model_copy(update={"parts": {"root": part}})
    target = Place(b"\1", SEGMENT)
    with pytest.raises(DigestError, match="does not hold 1000 bytes"):
        StoreSource(store).fill(bad, "root", target, [])
    assert target.writes == []


@pytest.mark.parametrize(
    "spoil",
    [lambda data: flip(data, 30), lambda data: data[:-1], lambda data: data * 9, lambda _: b""],
    ids=["one bit", "cut", "endless", "empty"],
)
def test_a_damaged_table_is_named_by_its_key(data: bytes, spoil: Callable[[bytes], bytes]) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    key = object_key(table_of(release).digest)
    store.corrupt(key, spoil(store.snapshot()[key]))
    target = Place(b"", len(data))
    with pytest.raises(DigestError, match=key):
        StoreSource(store).fill(release, "root", target, [])
    assert target.writes == []


def test_a_table_that_comes_wrong_once_is_fetched_again(data: bytes) -> None:
    inner = MemoryStore()
    release = framed(inner, data, SEGMENT)
    target = Place(b"", len(data))
    store = FaultyStore(inner, "wrong bytes", only=["get"], times=1)
    StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data


def test_a_table_of_something_else_is_refused(data: bytes) -> None:
    store = MemoryStore()
    mine, other = framed(store, data, SEGMENT), framed(store, data[:-1], SEGMENT)
    part = mine.parts["root"].model_copy(update={"segments": table_of(other)})
    swapped = mine.model_copy(update={"parts": {"root": part}})
    with pytest.raises(DigestError, match="is no table of the root of edge-web"):
        StoreSource(store).fill(swapped, "root", Place(b"", len(data)), [])


@pytest.mark.parametrize("what", ["object", "table", "both"])
def test_a_sign_in_page_is_called_one(data: bytes, what: str) -> None:
    """A captive portal answers 200 to everything; digests are not what its user can mend."""
    store = MemoryStore()
    release = framed(store, data, SEGMENT)
    if what != "table":
        store.corrupt(key_of(release), SIGN_IN)
    if what != "object":
        store.corrupt(object_key(table_of(release).digest), SIGN_IN)
    target = Place(b"", len(data))
    with pytest.raises(NetworkError) as caught:
        StoreSource(store).fill(release, "root", target, [])
    assert "a web page came in the place of objects/" in caught.value.message
    assert store.url in caught.value.message
    assert "sign in" in caught.value.hint
    assert target.writes == []


@pytest.mark.parametrize("enough", [True, False])
def test_a_store_that_fails_is_asked_for_the_rest_of_a_segment_if_it_gave_enough(
    enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a segment that is larger than what a link brings at a time would never be whole."""
    monkeypatch.setattr("pipeline.transfer.ranged._PROGRESS", 500 if enough else 600)

    class Failing(LinkDown):
        def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
            self.after = 500
            return super().stream(key, start=start, size=size)

    data = noise(5 * SEGMENT)
    store = Failing()
    release = framed(store, data, 5 * SEGMENT, compressed=False)
    target = Place(b"", len(data))
    if enough:
        filled = StoreSource(store).fill(release, "root", target, [])
        assert bytes(target.data) == data
        assert filled.downloaded == len(data) + table_of(release).size
        assert store.asked == [*range(0, 5 * SEGMENT, 500)]
    else:
        with pytest.raises(NetworkError):
            StoreSource(store).fill(release, "root", target, [])
        assert store.asked == [0]


@pytest.mark.parametrize("what", ["object", "table"])
def test_what_is_missing_is_told_with_what_it_is_for(data: bytes, what: str) -> None:
    store = MemoryStore()
    release = framed(store, data, SEGMENT)
    key = key_of(release) if what == "object" else object_key(table_of(release).digest)
    store.delete(key)
    with pytest.raises(MissingError, match=key) as caught:
        StoreSource(store).fill(release, "root", Place(b"", len(data)), [])
    assert f"the root of {release.name}" in caught.value.hint


def test_an_object_that_changes_while_it_is_read_is_read_again(data: bytes) -> None:
    class Changing(LinkDown):
        changes = 1

        def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
            for number, piece in enumerate(super().stream(key, start=start, size=size)):
                if number == 15 and self.changes:
                    self.changes -= 1
                    raise ChangedError("it changed")
                yield piece

    store = Changing()
    release = framed(store, data, SEGMENT, compressed=False)
    target = Place(b"", len(data))
    StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert store.asked == [0, SEGMENT]


# --- what cannot be done ----------------------------------------------------------------------


def test_a_place_that_is_too_small_is_refused_before_anything_is_asked(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, SEGMENT)
    target = Place(b"", len(data) - 1)
    with pytest.raises(HostError, match="there is room for"):
        StoreSource(store).fill(release, "root", target, [])
    assert target.writes == []


@pytest.mark.parametrize("role", ["disk", "nothing"])
def test_a_part_that_cannot_be_fetched_is_told(data: bytes, role: str) -> None:
    store = MemoryStore()
    with pytest.raises(UsageError, match=f"has no {role} to fetch"):
        StoreSource(store).fill(framed(store, data, SEGMENT), role, Place(b"", 10), [])


@pytest.mark.parametrize("error", [DiskFullError("no space is left"), HostError("it failed")])
def test_a_medium_that_fails_is_told_as_it_is(data: bytes, error: RecastError) -> None:
    class Failing(Place):
        def write(self, offset: int, data: bytes) -> None:
            if offset >= 3 * SEGMENT:
                raise error
            super().write(offset, data)

        def sync(self) -> None:
            raise HostError("sync fails as well")

    store = MemoryStore()
    with pytest.raises(type(error)) as caught:
        StoreSource(store).fill(framed(store, data, SEGMENT), "root", Failing(b"", len(data)), [])
    assert caught.value is error


def test_the_digest_of_a_segment_is_that_of_its_own_bytes(data: bytes) -> None:
    store = MemoryStore()
    for segment in segments_of(store, framed(store, data, SEGMENT)):
        block = data[segment.offset : segment.offset + segment.size]
        assert segment.digest == digest_of(block)
