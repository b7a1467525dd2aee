"""A part comes whole onto a machine: no byte that is there is fetched, none that is wrong stays."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline.transfer.frames import Frame, read_index

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
from pipeline.transfer.source import StoreSource
from tests.fakes.places import Place, framed
from tests.fakes.store import FaultyStore, MemoryStore

FRAME = 1000
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


def index_of(release: PublishedRelease) -> StoredObject:
    index = release.parts["root"].frames
    assert index is not None
    return index


def frames_of(store: MemoryStore, release: PublishedRelease) -> tuple[Frame, ...]:
    part, index = release.parts["root"], index_of(release)
    data = store.get(object_key(index.digest), limit=index.size)
    return read_index(data, part.size, stored_of(release).size)


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
    """What may lie around: for each frame what it should be, or something else."""
    found = b""
    for number, kind in enumerate(kinds):
        block = data[number * FRAME : (number + 1) * FRAME]
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
    size=st.integers(6 * FRAME + 1, 7 * FRAME),
    held=BLOCKS,
    lies=BLOCKS,
    compressed=st.booleans(),
    cut=st.integers(0, 8 * FRAME),
    seed_size=st.integers(0, 8 * FRAME),
)
def test_whatever_lies_around_and_whenever_it_is_cut_the_same_bytes_come_out(
    size: int, held: list[str], lies: list[str], compressed: bool, cut: int, seed_size: int
) -> None:
    data = noise(size // 2, 1) + b"beer " * size
    data = data[:size]
    store = LinkDown()
    release = framed(store, data, FRAME, compressed=compressed)
    frames = frames_of(store, release)
    target = Place(some(data, held), size + 50)
    behind = bytes(target.data[size:])
    seed = Place(some(data, lies)[:seed_size])

    def holds(place: Place, frame: Frame) -> bool:
        there = slice(frame.offset, frame.offset + frame.size)
        return bytes(place.data[there]) == data[there]

    missing = [frame for frame in frames if not (holds(target, frame) or holds(seed, frame))]
    # Of each run a piece may have come that is not wanted any more.
    needed = sum(frame.stored for frame in missing) + PIECE * len(missing)
    source = StoreSource(store)

    store.after = cut
    try:
        first = source.fill(release, "root", target, [seed])
    except NetworkError:
        assert target.durable == bytes(target.data), "what is right must outlive a power cut"
        store.after = float("inf")
        source.fill(release, "root", target, [seed])
    else:
        assert first.downloaded <= needed + index_of(release).size
        assert first.reused == size - sum(frame.size for frame in missing)
    assert bytes(target.data[:size]) == data
    assert bytes(target.data[size:]) == behind, "what lies behind the part is not ours"
    assert target.durable == bytes(target.data)
    cut_frame = max((frame.stored + PIECE for frame in missing), default=0)
    assert store.given <= needed + cut_frame, "a verified frame was fetched twice"


# --- what is fetched and written --------------------------------------------------------------


@pytest.fixture
def data() -> bytes:
    return noise(10 * FRAME - 7)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_empty_place_is_filled_by_one_request(data: bytes, compressed: bool) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME, compressed=compressed)
    target = Place(b"", len(data))
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert store.asked == [0]
    assert filled.downloaded == stored_of(release).size + index_of(release).size
    assert (filled.reused, filled.written) == (0, len(data))


def test_a_second_time_nothing_is_fetched_and_nothing_written(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    target = Place(data)
    filled = StoreSource(store).fill(release, "root", target, [])
    assert store.asked == []
    assert target.writes == []
    assert (filled.reused, filled.written) == (len(data), 0)
    assert target.syncs, "a try that was killed may have left what was never synced"


def test_frames_beside_each_other_are_one_request_and_others_one_each(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    frames = frames_of(store, release)
    target = Place(data)
    for number in (1, 2, 3, 6, 9):
        target.data[number * FRAME] ^= 1
    StoreSource(store).fill(release, "root", target, [])
    assert store.asked == [frames[number].start for number in (1, 6, 9)]
    assert bytes(target.data) == data


def test_of_a_frame_only_the_blocks_that_differ_are_written() -> None:
    block = 64 << 10
    data = noise(40 * block + 5)
    store = MemoryStore()
    release = framed(store, data, 50 * block)
    target = Place(data)
    for at in (0, 7 * block + 3, 8 * block, 40 * block + 1):
        target.data[at] ^= 1
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert target.writes == [(0, block), (7 * block, 2 * block), (40 * block, 5)]
    assert filled.written == 3 * block + 5


def test_large_frames_are_written_in_pieces_of_bounded_size() -> None:
    data = noise(5 << 20)
    store = MemoryStore()
    target = Place(b"", len(data))
    StoreSource(store).fill(framed(store, data, 5 << 20), "root", target, [])
    assert bytes(target.data) == data
    assert max(size for _, size in target.writes) <= 1 << 20
    assert target.written == len(data)


def test_target_and_seed_are_read_once(data: bytes) -> None:
    store = MemoryStore()
    release = framed(store, data, FRAME)
    target, seed = Place(b"", len(data)), Place(noise(len(data), 9))
    StoreSource(store).fill(release, "root", target, [seed])
    assert target.read_bytes == len(data)
    assert seed.read_bytes == len(data)


def test_what_a_seed_holds_is_taken_from_it(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    target, short, seed = Place(b"", len(data)), Place(data[:100]), Place(data)
    filled = StoreSource(store).fill(release, "root", target, [short, seed])
    assert bytes(target.data) == data
    assert store.asked == []
    assert filled.reused == len(data)


def test_a_seed_that_cannot_be_read_is_no_reason_to_stop(data: bytes) -> None:
    store = MemoryStore()
    release = framed(store, data, FRAME)
    target, seed = Place(b"", len(data)), Place(data)
    seed.unreadable.add(2500)
    StoreSource(store).fill(release, "root", target, [seed])
    assert bytes(target.data) == data


def test_a_place_that_cannot_be_read_is_written(data: bytes) -> None:
    store = MemoryStore()
    target = Place(data)
    target.unreadable.add(2500)
    StoreSource(store).fill(framed(store, data, FRAME), "root", target, [])
    assert bytes(target.data) == data
    assert target.written == FRAME


def test_a_power_cut_costs_no_more_than_what_was_not_synced(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.transfer.whole._UNSYNCED", 3 * FRAME)
    store = MemoryStore()
    target = Place(b"", len(data))
    StoreSource(store).fill(framed(store, data, FRAME), "root", target, [])
    assert target.syncs == 4


def test_progress_tells_what_is_right_and_what_of_it_was_fetched(data: bytes) -> None:
    store = MemoryStore()
    target = Place(data)
    target.data[3 * FRAME] ^= 1
    heard: list[tuple[int, int]] = []
    StoreSource(store).fill(
        framed(store, data, FRAME), "root", target, [], progress=lambda *each: heard.append(each)
    )
    assert heard == [
        (min(number * FRAME, len(data)), FRAME * (number > 3)) for number in range(1, 11)
    ]


def test_a_stop_ends_it_and_what_came_stays(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    target = Place(b"", len(data))
    stop = Stop()

    def heard(right: int, _: int) -> None:
        if right >= 4 * FRAME:
            stop.set()

    with pytest.raises(Interrupted):
        StoreSource(store).fill(release, "root", target, [], progress=heard, stop=stop)
    assert target.durable[: 4 * FRAME] == data[: 4 * FRAME]
    store.asked.clear()
    StoreSource(store).fill(release, "root", target, [])
    assert store.asked == [frames_of(store, release)[4].start]


def test_a_part_of_one_frame_needs_no_index() -> None:
    data = noise(5000)
    store = MemoryStore()
    release = framed(store, data, 1 << 20, indexed=False)
    target = Place(b"", 6000)
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data[:5000]) == data
    assert filled.downloaded == stored_of(release).size


def test_an_empty_part_is_there_at_once() -> None:
    store = LinkDown()
    release = framed(store, b"", FRAME, indexed=False)
    assert StoreSource(store).fill(release, "root", Place(b"", 10), []).written == 0
    assert store.asked == []


# --- releases without an index ----------------------------------------------------------------


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Callable[[MemoryStore, bytes], PublishedRelease]:
    """Publishes as was done before there were indexes; a part of more than one frame."""
    monkeypatch.setattr("pipeline.transfer.whole.FRAME", FRAME)
    return lambda store, data: framed(store, data, FRAME, indexed=False)


def test_without_an_index_it_comes_in_one_piece(
    data: bytes, old: Callable[[MemoryStore, bytes], PublishedRelease]
) -> None:
    store = LinkDown()
    release = old(store, data)
    target = Place(b"", len(data))
    filled = StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert filled.downloaded == stored_of(release).size
    assert target.durable == data
    again = StoreSource(store).fill(release, "root", target, [])
    assert (again.downloaded, again.reused, again.written) == (0, len(data), 0)
    assert store.asked == [0]


@pytest.mark.parametrize("fault", ["wrong bytes", "short body"])
def test_without_an_index_damage_is_told_at_the_end(
    data: bytes, old: Callable[[MemoryStore, bytes], PublishedRelease], fault: str
) -> None:
    store = MemoryStore()
    release = old(store, data)
    broken = FaultyStore(store, fault)  # type: ignore[arg-type]
    with pytest.raises(DigestError, match=key_of(release)):
        StoreSource(broken).fill(release, "root", Place(b"", len(data)), [])


def test_without_an_index_a_description_that_lies_is_told(
    data: bytes, old: Callable[[MemoryStore, bytes], PublishedRelease]
) -> None:
    store = MemoryStore()
    release = old(store, data)
    part = release.parts["root"].model_copy(update={"digest": "d" * 64})
    lie = release.model_copy(update={"parts": {"root": part}})
    with pytest.raises(DigestError, match="not what was published"):
        StoreSource(store).fill(lie, "root", Place(b"", len(data)), [])


def test_without_an_index_a_web_page_is_called_one(
    data: bytes, old: Callable[[MemoryStore, bytes], PublishedRelease]
) -> None:
    store = MemoryStore()
    release = old(store, data)
    store.corrupt(key_of(release), SIGN_IN)
    with pytest.raises(NetworkError, match="a web page came"):
        StoreSource(store).fill(release, "root", Place(b"", len(data)), [])


# --- what is not believed ---------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_wrong_frame_is_fetched_again(data: bytes, compressed: bool, times: int) -> None:
    inner = MemoryStore()
    release = framed(inner, data, FRAME, compressed=compressed)
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
    ids=["one bit", "cut in a frame", "cut between", "zeros", "moved", "endless"],
)
def test_damage_is_named_and_what_was_right_stays(
    data: bytes, compressed: bool, spoil: Callable[[bytes, int], bytes]
) -> None:
    store = MemoryStore()
    release = framed(store, data, FRAME, compressed=compressed)
    frames = frames_of(store, release)
    key = key_of(release)
    store.corrupt(key, spoil(store.snapshot()[key], frames[4].start))
    watched = FaultyStore(store)
    target = Place(b"", len(data))
    with pytest.raises(DigestError) as caught:
        StoreSource(watched).fill(release, "root", target, [])
    assert key in caught.value.message
    assert "frame 5 of 10" in caught.value.message
    assert caught.value.hint
    assert target.durable == data[: 4 * FRAME].ljust(len(data), b"\0"), "nothing wrong is written"
    assert watched.operations.count(("stream", key)) <= 5, "tries are bounded"


def test_a_frame_that_stands_for_very_many_bytes_is_not_unpacked() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    data = bytes(FRAME)
    store = MemoryStore()
    good = framed(store, data, FRAME)
    stored = stored_of(good).model_copy(update={"size": len(bomb)})
    part = good.parts["root"].model_copy(update={"stored": stored, "frames": None})
    store.corrupt(object_key(stored.digest), bomb)
    bad = good.model_copy(update={"parts": {"root": part}})
    target = Place(b"\1", FRAME)
    with pytest.raises(DigestError, match="too long"):
        StoreSource(store).fill(bad, "root", target, [])
    assert target.writes == []


@pytest.mark.parametrize(
    "spoil",
    [lambda data: flip(data, 30), lambda data: data[:-1], lambda data: data * 9, lambda _: b""],
    ids=["one bit", "cut", "endless", "empty"],
)
def test_a_damaged_index_is_named_by_its_key(data: bytes, spoil: Callable[[bytes], bytes]) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    key = object_key(index_of(release).digest)
    store.corrupt(key, spoil(store.snapshot()[key]))
    target = Place(b"", len(data))
    with pytest.raises(DigestError, match=key):
        StoreSource(store).fill(release, "root", target, [])
    assert target.writes == []


def test_an_index_that_comes_wrong_once_is_fetched_again(data: bytes) -> None:
    inner = MemoryStore()
    release = framed(inner, data, FRAME)
    target = Place(b"", len(data))
    store = FaultyStore(inner, "wrong bytes", only=["get"], times=1)
    StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data


def test_an_index_of_something_else_is_refused(data: bytes) -> None:
    store = MemoryStore()
    mine, other = framed(store, data, FRAME), framed(store, data[:-1], FRAME)
    part = mine.parts["root"].model_copy(update={"frames": index_of(other)})
    swapped = mine.model_copy(update={"parts": {"root": part}})
    with pytest.raises(DigestError, match="is no index of the root of edge-web"):
        StoreSource(store).fill(swapped, "root", Place(b"", len(data)), [])


@pytest.mark.parametrize("what", ["object", "index", "both"])
def test_a_sign_in_page_is_called_one(data: bytes, what: str) -> None:
    """A captive portal answers 200 to everything; digests are not what its user can mend."""
    store = MemoryStore()
    release = framed(store, data, FRAME)
    if what != "index":
        store.corrupt(key_of(release), SIGN_IN)
    if what != "object":
        store.corrupt(object_key(index_of(release).digest), SIGN_IN)
    target = Place(b"", len(data))
    with pytest.raises(NetworkError) as caught:
        StoreSource(store).fill(release, "root", target, [])
    assert "a web page came in the place of objects/" in caught.value.message
    assert store.url in caught.value.message
    assert "sign in" in caught.value.hint
    assert target.writes == []


@pytest.mark.parametrize("enough", [True, False])
def test_a_store_that_fails_is_asked_for_the_rest_of_a_frame_if_it_gave_enough(
    enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a frame that is larger than what a link brings at a time would never be whole."""
    monkeypatch.setattr("pipeline.transfer.ranged._PROGRESS", 500 if enough else 600)

    class Failing(LinkDown):
        def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
            self.after = 500
            return super().stream(key, start=start, size=size)

    data = noise(5 * FRAME)
    store = Failing()
    release = framed(store, data, 5 * FRAME, compressed=False)
    target = Place(b"", len(data))
    if enough:
        filled = StoreSource(store).fill(release, "root", target, [])
        assert bytes(target.data) == data
        assert filled.downloaded == len(data) + index_of(release).size
        assert store.asked == [*range(0, 5 * FRAME, 500)]
    else:
        with pytest.raises(NetworkError):
            StoreSource(store).fill(release, "root", target, [])
        assert store.asked == [0]


@pytest.mark.parametrize("what", ["object", "index"])
def test_what_is_missing_is_told_with_what_it_is_for(data: bytes, what: str) -> None:
    store = MemoryStore()
    release = framed(store, data, FRAME)
    key = key_of(release) if what == "object" else object_key(index_of(release).digest)
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
    release = framed(store, data, FRAME, compressed=False)
    target = Place(b"", len(data))
    StoreSource(store).fill(release, "root", target, [])
    assert bytes(target.data) == data
    assert store.asked == [0, FRAME]


# --- what cannot be done ----------------------------------------------------------------------


def test_a_place_that_is_too_small_is_refused_before_anything_is_asked(data: bytes) -> None:
    store = LinkDown()
    release = framed(store, data, FRAME)
    target = Place(b"", len(data) - 1)
    with pytest.raises(HostError, match="there is room for"):
        StoreSource(store).fill(release, "root", target, [])
    assert target.writes == []


@pytest.mark.parametrize("role", ["disk", "nothing"])
def test_a_part_that_cannot_be_fetched_is_told(data: bytes, role: str) -> None:
    store = MemoryStore()
    with pytest.raises(UsageError, match=f"has no {role} to fetch"):
        StoreSource(store).fill(framed(store, data, FRAME), role, Place(b"", 10), [])


@pytest.mark.parametrize("error", [DiskFullError("no space is left"), HostError("it failed")])
def test_a_medium_that_fails_is_told_as_it_is(data: bytes, error: RecastError) -> None:
    class Failing(Place):
        def write(self, offset: int, data: bytes) -> None:
            if offset >= 3 * FRAME:
                raise error
            super().write(offset, data)

        def sync(self) -> None:
            raise HostError("sync fails as well")

    store = MemoryStore()
    with pytest.raises(type(error)) as caught:
        StoreSource(store).fill(framed(store, data, FRAME), "root", Failing(b"", len(data)), [])
    assert caught.value is error


def test_the_digest_of_a_frame_is_that_of_its_own_bytes(data: bytes) -> None:
    store = MemoryStore()
    frames = frames_of(store, framed(store, data, FRAME))
    for frame in frames:
        block = data[frame.offset : frame.offset + frame.size]
        assert frame.digest == hashlib.sha256(block).digest()
