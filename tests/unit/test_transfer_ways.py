"""A part comes by the cheapest way, right whatever fails, and nothing wrong is ever written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.command import Stop
from pipeline.errors import DigestError, HostError, Interrupted, NetworkError
from pipeline.models.pointer import Chunks, Delta, PublishedRelease, StoredObject
from pipeline.store.base import MissingError, object_key
from pipeline.transfer import chunking, chunks, ranged
from pipeline.transfer.base import Filled, Seed
from pipeline.transfer.ranged import Link
from pipeline.transfer.segments import Segment, read_table
from pipeline.transfer.source import StoreSource
from pipeline.transfer.ways import ChunkWay, DeltaWay, Way, WholeWay
from tests.fakes.contents import BLOCK, Pair, noise, pairs, patched, words
from tests.fakes.places import Place, framed, named
from tests.fakes.store import MemoryStore

SEGMENT = 16 * BLOCK
SMALL = 4 * BLOCK
PIECE = 500
EMPTY = Place(b"")
WAYS = ["delta", "chunks", "whole"]


class Checked(Place):
    """A target that nothing may be written to but what belongs there."""

    def __init__(self, truth: bytes, held: bytes = b"") -> None:
        super().__init__(held[: len(truth)], len(truth))
        self.truth = truth

    def write(self, offset: int, data: bytes) -> None:
        assert data == self.truth[offset : offset + len(data)], "what is wrong was written"
        super().write(offset, data)


class Watched(MemoryStore):
    """Counts what is asked for and what is given; its link may be cut after so many bytes.

    Attributes:
        asked: the key of each request.
        given: bytes of all of them.
        after: bytes that streams give before the link is cut.
        gone: is it a cut, or has the object gone?
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.given = 0
        self.after = float("inf")
        self.gone = False

    def get(self, key: str, *, limit: int) -> bytes:
        self.asked.append(key)
        data = super().get(key, limit=limit)
        self.given += len(data)
        return data

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        self.asked.append(key)
        for data in super().stream(key, start=start, size=size):
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                self.after -= len(piece)
                if self.after < 0:
                    if self.gone:
                        raise MissingError(key, self.url)
                    raise NetworkError("the connection was cut")
                self.given += len(piece)
                yield piece


@pytest.fixture(scope="module", autouse=True)
def small_scale() -> Iterator[None]:
    """Frames of a pack are as long as segments, and gaps between ranges are worth a request."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunking, "FRAME_BLOCKS", 16)
        patched.setattr(ranged, "join", partial(ranged.join, gap=0))
        yield


@dataclass
class World:
    """A release that can come in all ways."""

    store: Watched
    release: PublishedRelease
    old: bytes
    data: bytes

    @property
    def whole(self) -> StoredObject:
        stored = self.release.parts["root"].stored
        assert stored is not None
        return stored

    @property
    def table(self) -> StoredObject:
        table = self.release.parts["root"].segments
        assert table is not None
        return table

    @property
    def delta(self) -> Delta:
        return self.release.parts["root"].deltas[0]

    @property
    def chunks(self) -> Chunks:
        chunks = self.release.parts["root"].chunks
        assert chunks is not None
        return chunks

    @property
    def segments(self) -> tuple[Segment, ...]:
        data = MemoryStore.get(self.store, object_key(self.table.digest), limit=self.table.size)
        return read_table(data, len(self.data), self.whole.size)

    def object(self, which: str) -> StoredObject:
        if "delta" in which:
            found = self.delta.stored if which == "delta" else self.delta.index
        elif which == "whole":
            found = self.whole
        else:
            found = self.chunks.pack if which == "pack" else self.chunks.index
        assert found is not None
        return found

    def key(self, which: str) -> str:
        return object_key(self.object(which).digest)

    def seeds(self, way: str) -> list[Place]:
        """Those with which the part comes in this way."""
        return {"delta": [named(self.old)], "chunks": [Place(self.old)], "whole": []}[way]

    def target(self, held: bytes | None = None) -> Checked:
        """One that holds what is of no use, if nothing is said."""
        return Checked(self.data, b"\xaa" * len(self.data) if held is None else held)

    def fill(
        self,
        target: Place,
        seeds: Sequence[Seed],
        *,
        heard: Callable[[int, int], None] | None = None,
        stop: Stop | None = None,
    ) -> Filled:
        told: list[tuple[int, int]] = []

        def hear(right: int, came: int) -> None:
            told.append((right, came))
            if heard is not None:
                heard(right, came)

        source = StoreSource(self.store)
        before = self.store.given
        filled = source.fill(self.release, "root", target, seeds, progress=hear, stop=stop)
        assert told == sorted(told), "progress goes back"
        assert [right for right, _ in told[-1:]] in ([], [len(self.data)])
        assert bytes(target.data[: len(self.data)]) == self.data
        assert target.durable == bytes(target.data)
        assert filled.downloaded <= self.store.given - before
        return filled

    def flip(self, which: str, bit: int) -> None:
        key = self.key(which)
        data = bytearray(self.store.snapshot()[key])
        data[bit // 8 % len(data)] ^= 1 << bit % 8
        self.store.corrupt(key, bytes(data))


def make(pair: Pair, *, segment: int = SEGMENT, compressed: bool = True) -> World:
    store = Watched()
    bases = [pair.old] if pair.old and pair.new else []
    release = framed(
        store, pair.new, segment, compressed=compressed, bases=bases, chunked=[pair.old]
    )
    return World(store, release, pair.old, pair.new)


def typical() -> Pair:
    """An update: some files moved, some are patched, some are new."""
    text = words(40 * BLOCK, 3)
    old = noise(80 * BLOCK) + text + noise(80 * BLOCK, 1)
    new = b"".join(
        [
            old[16 * BLOCK : 66 * BLOCK],
            noise(20 * BLOCK, 4),
            patched(text, 97, 5),
            bytes(36 * BLOCK),
            old[: 16 * BLOCK],
            old[125 * BLOCK : 195 * BLOCK],
            noise(9 * BLOCK + 77, 5),
        ]
    )
    return Pair(old, new)


TYPICAL = typical()


@pytest.fixture(scope="module")
def lasting() -> World:
    return make(TYPICAL)


@pytest.fixture
def world(lasting: World) -> World:
    return fresh(lasting)


def fresh(world: World) -> World:
    """The same, with a store of its own."""
    store = Watched()
    store.restore(world.store.snapshot())
    return World(store, world.release, world.old, world.data)


def attempt(world: World, target: Place, seeds: Sequence[Seed]) -> DigestError | None:
    """Fill *target*; what is told if the store is too damaged for that."""
    try:
        world.fill(target, seeds)
    except DigestError as error:
        return error
    return None


# --- which way --------------------------------------------------------------------------------


def test_a_delta_brings_it_to_a_machine_that_has_its_base(world: World) -> None:
    filled = world.fill(world.target(), [Place(noise(9000)), named(world.old)])
    assert filled.how.startswith(f"delta from {world.delta.version}: ")
    assert " (instead of whole " in filled.how
    assert filled.downloaded <= world.table.size + world.delta.size + world.chunks.index.size
    assert filled.reused >= 70 * BLOCK


def test_chunks_bring_it_to_a_machine_that_has_something_like_it(world: World) -> None:
    other = named(noise(3 * BLOCK, 9) + world.old[: 150 * BLOCK])
    filled = world.fill(world.target(), [other])
    assert filled.how.startswith("chunks: ")
    assert "(instead of whole " in filled.how
    assert world.key("index of the delta") not in world.store.asked
    assert filled.reused >= 60 * BLOCK
    assert filled.downloaded < world.whole.size


def test_the_whole_comes_where_nothing_helps(world: World) -> None:
    """Chunks would cost as much, and more can go wrong with them."""
    filled = world.fill(world.target(), [Place(noise(90_000, 9))])
    assert filled.how.startswith("whole: ")
    assert (filled.reused, filled.written) == (0, len(world.data))
    assert world.store.asked.count(world.key("whole")) == 1


def test_with_nothing_at_all_no_index_is_asked_for(world: World) -> None:
    filled = world.fill(world.target(), [])
    assert filled.how.startswith("whole: ")
    assert "instead" not in filled.how
    assert filled.downloaded == world.table.size + world.whole.size
    assert set(world.store.asked) == {object_key(world.table.digest), world.key("whole")}


def test_nothing_comes_where_all_is_right(world: World) -> None:
    filled = world.fill(world.target(world.data), [named(world.old)])
    assert filled.how == "all of it was there"
    assert world.store.asked == [object_key(world.table.digest)]
    assert (filled.reused, filled.written) == (len(world.data), 0)


def test_an_index_that_costs_more_than_it_can_save_is_not_asked_for() -> None:
    data = noise(20 * BLOCK) + b"x" * BLOCK
    world = make(Pair(noise(20 * BLOCK), data), segment=BLOCK)
    held = data[: 20 * BLOCK]
    filled = world.fill(world.target(held), [named(world.old)])
    assert len(world.store.asked) == 2
    assert filled.how.startswith("whole: ")


def test_a_delta_of_nothing_but_what_is_there_needs_its_index_alone() -> None:
    old = noise(40 * BLOCK)
    world = make(Pair(old, old[20 * BLOCK :] + old[: 20 * BLOCK]))
    assert world.delta.stored is None
    filled = world.fill(world.target(), [named(old)])
    assert filled.how.startswith("delta")
    assert filled.reused == len(old)
    assert world.key("whole") not in world.store.asked


def test_of_two_deltas_the_cheaper_one_is_taken() -> None:
    old, older = noise(40 * BLOCK), noise(20 * BLOCK)
    store = Watched()
    data = old[:BLOCK] + words(BLOCK) + old[BLOCK:]
    release = framed(store, data, SEGMENT, bases=[older, old])
    world = World(store, release, old, data)
    filled = world.fill(world.target(), [named(older), named(old)])
    assert filled.how.startswith(f"delta from {release.parts['root'].deltas[1].version}: ")
    assert f"delta from {release.parts['root'].deltas[0].version}" in filled.how


def test_a_slot_with_an_older_release_is_a_seed_itself() -> None:
    """What has moved towards its start lies behind what is written, and is still there."""
    old = noise(160 * BLOCK)
    new = old[:SEGMENT] + old[SEGMENT + 3 * BLOCK :]
    world = make(Pair(b"", new))
    filled = world.fill(world.target(old), [])
    assert filled.how.startswith("chunks: ")
    assert filled.downloaded < 3 * SEGMENT
    assert filled.reused > 110 * BLOCK


def test_what_is_written_over_is_no_seed_any_more() -> None:
    """What has moved towards the end of a slot comes over the link, and is right."""
    old = noise(160 * BLOCK)
    world = make(Pair(b"", old[:SEGMENT] + noise(20 * BLOCK, 1) + old[SEGMENT:]))
    filled = world.fill(world.target(old), [EMPTY])
    assert filled.downloaded <= world.whole.size + indexes_of(world)


def test_a_part_of_one_segment_comes_by_a_delta() -> None:
    pair = Pair(noise(9 * BLOCK), noise(9 * BLOCK) + words(3000))
    world = make(pair, segment=1 << 20)
    part = world.release.parts["root"].model_copy(update={"segments": None})
    world.release = world.release.model_copy(update={"parts": {"root": part}})
    filled = world.fill(world.target(), [named(world.old)])
    assert filled.how.startswith("delta")


# --- the law ----------------------------------------------------------------------------------

HELD = st.lists(st.sampled_from(["right", "right", "zeros", "old", "noise"]), max_size=48)


def lying_around(world: World, kinds: list[str], segment: int) -> bytes:
    """A target's content: for each segment what it should be, or something else."""
    found = bytearray(len(world.data))
    sources = {"right": world.data, "old": world.old, "noise": noise(len(world.data), 77)}
    for number, kind in enumerate(kinds):
        if kind in sources:
            here = sources[kind][number * segment : (number + 1) * segment]
            found[number * segment : number * segment + len(here)] = here
    return bytes(found[: len(world.data)])


def missing_in(world: World, held: bytes) -> list[int]:
    return [
        number
        for number, each in enumerate(world.segments)
        if held[each.offset : each.offset + each.size]
        != world.data[each.offset : each.offset + each.size]
    ]


@settings(max_examples=150)
@given(
    pair=pairs(),
    held=HELD,
    seeds=st.lists(st.sampled_from(["old", "some of old", "like new", "noise"]), max_size=3),
    segment=st.sampled_from([SMALL, SEGMENT]),
    compressed=st.booleans(),
)
def test_it_never_costs_more_than_the_whole_and_the_indexes(
    pair: Pair, held: list[str], seeds: list[str], segment: int, compressed: bool
) -> None:
    world = make(pair, segment=segment, compressed=compressed)
    target = world.target(lying_around(world, held, segment))
    missing = missing_in(world, bytes(target.data))
    around = {
        "old": named(pair.old),
        "some of old": Place(pair.old[: len(pair.old) // 2]),
        "like new": Place(bytes(BLOCK) + pair.new[: 3 * len(pair.new) // 4]),
        "noise": named(noise(9 * BLOCK, 70)),
    }
    filled = world.fill(target, [around[name] for name in seeds])
    if not missing:
        assert filled.downloaded <= world.table.size
        return
    least = WholeWay(Link(world.store), world.whole, world.segments).plan(missing)
    assert filled.downloaded <= least + indexes_of(world)
    assert filled.reused <= len(pair.new)
    assert len(world.store.asked) < 64


@settings(max_examples=150)
@given(
    pair=pairs(),
    held=HELD,
    seeds=st.lists(
        st.sampled_from(["old", "liar", "short", "broken", "noise"]), min_size=1, max_size=3
    ),
    faults=st.dictionaries(
        st.sampled_from(["delta", "index of the delta", "pack", "index of the chunks"]),
        st.one_of(st.just(-1), st.integers(0, 1 << 20)),
    ),
)
def test_whatever_is_damaged_or_missing_it_comes_right(
    pair: Pair, held: list[str], seeds: list[str], faults: dict[str, int]
) -> None:
    world = make(pair, segment=SMALL)
    for which, bit in faults.items():
        try:
            key = world.key(which)
        except (AssertionError, IndexError):
            continue  # there is none
        if key == world.key("whole") or key not in world.store.snapshot():
            continue  # of a few bytes, two may be one object
        if bit < 0:
            world.store.delete(key)
        else:
            world.flip(which, bit)
    broken = named(pair.old)
    broken.unreadable = {len(pair.old) // 2}
    liar, short = Place(noise(len(pair.old), 71)), Place(pair.old[: len(pair.old) // 2])
    liar.name = short.name = named(pair.old).name
    around = {
        "old": named(pair.old),
        "liar": liar,
        "short": short,
        "broken": broken,
        "noise": named(noise(9 * BLOCK, 70)),
    }
    target = world.target(lying_around(world, held, SMALL))
    world.fill(target, [around[name] for name in seeds])
    assert len(world.store.asked) < 64


@settings(max_examples=80)
@given(pair=pairs(), way=st.sampled_from(WAYS), chance=st.randoms(use_true_random=False))
def test_what_a_way_says_that_it_costs_is_what_comes(
    pair: Pair, way: str, chance: random.Random
) -> None:
    world = make(pair, segment=SMALL)
    numbers = range(len(world.segments))
    missing = sorted(chance.sample(numbers, chance.randint(0, len(numbers))))
    if not missing or (way == "delta" and not world.release.parts["root"].deltas):
        return
    target = Place(world.data)
    for number in missing:
        segment = world.segments[number]
        target.write(segment.offset, bytes(segment.size))
    link = Link(world.store)
    whole = WholeWay(link, world.whole, world.segments)
    chosen: Way = whole
    if way == "delta":
        chosen = DeltaWay(link, world.delta, named(pair.old), target, world.segments)
    elif way == "chunks":
        seeds = [Place(pair.old[: chance.randint(0, len(pair.old))])]
        chosen = ChunkWay(link, world.chunks, whole, seeds, target, world.segments, missing)
    chosen.open()
    before = link.received
    cost = chosen.plan(missing)
    assert link.received == before
    for number in missing:
        segment = world.segments[number]
        data = chosen.bring(number).data
        assert data == world.data[segment.offset : segment.offset + segment.size]
        target.write(segment.offset, data)
    assert link.received - before == cost


def test_a_frame_that_is_needed_now_and_then_comes_once() -> None:
    """Chunks that few machines lack lie together: some are at the start, some at the end."""
    rare = noise(20 * BLOCK, 6)
    data = b"".join(
        rare[number * BLOCK : (number + 1) * BLOCK] + bytes(BLOCK) + noise(18 * BLOCK, number)
        for number in range(20)
    )
    held = b"".join(rare[at : at + BLOCK] + bytes(BLOCK) for at in range(0, len(rare), BLOCK))
    store = Watched()
    release = framed(store, data, SEGMENT, chunked=[held, b""])
    world = World(store, release, b"", data)
    link = Link(store)
    whole = WholeWay(link, world.whole, world.segments)
    numbers = range(len(world.segments))
    way = ChunkWay(link, world.chunks, whole, [EMPTY], world.target(), world.segments, numbers)
    way.open()
    before = link.received
    cost = way.plan(numbers)
    assert b"".join(way.bring(number).data for number in numbers) == data
    assert link.received - before == cost
    assert cost == world.object("pack").size
    assert len(store.asked) < 64


# --- what is damaged --------------------------------------------------------------------------

OBJECTS = ["delta", "index of the delta", "pack", "index of the chunks", "whole"]


def way_of(which: str) -> str:
    if "delta" in which:
        return "delta"
    return "whole" if which == "whole" else "chunks"


@pytest.mark.parametrize("which", OBJECTS)
@settings(max_examples=20)
@given(bit=st.integers(0, 1 << 30))
def test_one_bit_that_is_wrong_is_noticed_and_the_rest_comes_otherwise(
    lasting: World, which: str, bit: int
) -> None:
    world = fresh(lasting)
    world.flip(which, bit)
    seeds = world.seeds(way_of(which))
    target = world.target()
    error = attempt(world, target, seeds)
    if error is not None:
        assert which == "whole", "the whole is right"
        assert world.key("whole") in error.message
        assert target.durable == bytes(target.data)
        world.flip(which, bit)
        world.fill(target, seeds)


@pytest.mark.parametrize("which", [each for each in OBJECTS if each != "whole"])
@settings(max_examples=10)
@given(bit=st.integers(0, 1 << 30))
def test_where_the_whole_is_damaged_too_that_is_told_and_what_is_right_stays(
    lasting: World, which: str, bit: int
) -> None:
    world = fresh(lasting)
    world.flip(which, bit)
    for segment in world.segments:
        world.flip("whole", (segment.start + segment.stored // 2) * 8)
    target = world.target()
    error = attempt(world, target, world.seeds(way_of(which)))
    if error is None:
        assert which != "index of the chunks", "an index is held against its digest"
        return
    assert world.key("whole") in error.message
    assert error.hint
    assert target.durable == bytes(target.data)


@pytest.mark.parametrize("which", [each for each in OBJECTS if each != "whole"])
def test_what_is_missing_is_done_without(world: World, which: str) -> None:
    world.store.delete(world.key(which))
    filled = world.fill(world.target(), world.seeds(way_of(which)))
    assert f"there is no {world.key(which)}" in filled.how
    assert filled.how.split("; ")[-1].startswith("chunks" if "delta" in which else "whole")


@pytest.mark.parametrize("which", ["delta", "pack"])
def test_without_a_whole_the_other_ways_do(world: World, which: str) -> None:
    world.store.delete(world.key("whole"))
    filled = world.fill(world.target(), world.seeds(way_of(which)))
    assert filled.how.startswith(way_of(which))


@pytest.mark.parametrize("way", WAYS)
def test_where_nothing_is_left_the_missing_whole_is_told(world: World, way: str) -> None:
    for which in OBJECTS:
        world.store.delete(world.key(which))
    with pytest.raises(MissingError) as caught:
        world.fill(world.target(), world.seeds(way))
    assert caught.value.key == world.key("whole")
    assert "no whole copy of the root of edge-web" in caught.value.hint


@pytest.mark.parametrize("which", ["delta", "pack"])
def test_of_a_missing_way_and_a_damaged_whole_the_damage_is_told(world: World, which: str) -> None:
    """The whole would be enough, and it alone must be there."""
    world.store.delete(world.key(which))
    world.store.delete(world.key("pack"))
    world.store.corrupt(world.key("whole"), bytes(world.whole.size))
    error = attempt(world, world.target(), world.seeds(way_of(which)))
    assert error is not None
    assert world.key("whole") in error.message
    assert world.store.asked.count(world.key("whole")) <= 4, "tries, and a look for a web page"


@pytest.mark.parametrize("way", WAYS)
def test_what_came_before_an_object_went_outlives_a_power_cut(world: World, way: str) -> None:
    world.store.after, world.store.gone = 60_000 if way == "delta" else 130_000, True
    target = world.target()
    with pytest.raises(MissingError):
        world.fill(target, world.seeds(way))
    assert any(target.durable)
    assert target.durable == bytes(target.data)


def lying(data: bytes, name: str) -> Place:
    place = Place(data)
    place.name = name
    return place


def test_a_seed_that_lies_costs_no_more_than_the_way_that_it_promised(world: World) -> None:
    liar = lying(noise(len(world.old), 9), named(world.old).name)
    filled = world.fill(world.target(), [liar])
    tried, last = filled.how.split("; ")
    assert tried.startswith("delta")
    assert "segment 1 of " in tried
    assert last.startswith("whole")
    assert world.store.asked.count(world.key("delta")) <= 3


def test_a_seed_that_lies_a_little_is_used_as_far_as_it_is_right(world: World) -> None:
    data = bytearray(world.old)
    data[180 * BLOCK] ^= 1
    filled = world.fill(world.target(), [lying(bytes(data), named(world.old).name)])
    tried, last = filled.how.split("; ")
    assert tried.startswith("delta")
    assert last.startswith("chunks")
    assert filled.reused > 70 * BLOCK


@pytest.mark.parametrize("way", ["delta", "chunks"])
def test_a_seed_that_cannot_be_read_is_no_reason_to_stop(
    world: World, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_PIECE", SMALL)  # read at once, to be looked through
    (seed,) = world.seeds(way)
    seed.unreadable = {180 * BLOCK}
    filled = world.fill(world.target(), [seed])
    if way == "delta":
        assert "what this machine has cannot be read" in filled.how
    assert filled.reused > 50 * BLOCK, "what can be read is used"


def test_a_seed_that_fails_while_it_is_used_is_no_reason_to_stop(world: World) -> None:
    class Failing(Place):
        fails = False

        def read(self, offset: int, size: int) -> bytes:
            if self.fails:
                raise HostError("the medium failed")
            return super().read(offset, size)

    seed = Failing(world.old)

    def heard(right: int, _: int) -> None:
        seed.fails = right >= 4 * SEGMENT

    filled = world.fill(world.target(), [seed], heard=heard)
    assert [each.split(":")[0] for each in filled.how.split("; ")] == ["chunks", "whole"]


def test_a_seed_that_is_shorter_than_it_should_be_is_not_read_beyond_its_end(world: World) -> None:
    short = lying(world.old[: 160 * BLOCK], named(world.old).name)
    filled = world.fill(world.target(), [short])
    assert "more than this machine has" in filled.how
    assert filled.how.split("; ")[-1].startswith("chunks")


# --- what is cut ------------------------------------------------------------------------------


def indexes_of(world: World) -> int:
    deltas = world.release.parts["root"].deltas
    return world.table.size + world.chunks.index.size + sum(each.index.size for each in deltas)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_after_a_cut_only_what_is_missing_comes(world: World, way: str, share: float) -> None:
    undisturbed = fresh(world)
    undisturbed.fill(undisturbed.target(), undisturbed.seeds(way))
    all_of_it = undisturbed.store.given
    world.store.after = share * (all_of_it - indexes_of(world))
    target = world.target()
    with pytest.raises(NetworkError):
        world.fill(target, world.seeds(way))
    assert target.durable == bytes(target.data), "what came must outlive a power cut"
    kept = len(world.segments) - len(missing_in(world, bytes(target.data)))
    world.store.after = float("inf")
    filled = world.fill(target, world.seeds(way))
    # The indexes once more, and of one segment (or a frame of a pack) what had come.
    again = 2 * SEGMENT if way == "chunks" else SEGMENT
    assert world.store.given <= all_of_it + indexes_of(world) + again + PIECE
    assert filled.reused >= (kept - 1) * SEGMENT


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_keeps_what_is_right(world: World, way: str) -> None:
    stop = Stop()
    target = world.target()

    def heard(right: int, _: int) -> None:
        if right >= 5 * SEGMENT:
            stop.set()

    with pytest.raises(Interrupted):
        world.fill(target, world.seeds(way), heard=heard, stop=stop)
    assert target.durable[: 5 * SEGMENT] == world.data[: 5 * SEGMENT]
    assert target.durable == bytes(target.data)
    filled = world.fill(target, world.seeds(way))
    assert filled.how.startswith(way)


@settings(max_examples=60)
@given(
    pair=pairs(),
    way=st.sampled_from(WAYS),
    cuts=st.lists(st.integers(0, 60_000), max_size=4),
)
def test_whenever_it_is_cut_the_same_bytes_come_out(pair: Pair, way: str, cuts: list[int]) -> None:
    world = make(pair)
    target = world.target()
    for after in cuts:
        world.store.after = after
        try:
            world.fill(target, world.seeds(way))
        except NetworkError:
            assert target.durable == bytes(target.data)
    world.store.after = float("inf")
    world.fill(target, world.seeds(way))


def test_many_places_that_are_wrong_come_in_few_requests() -> None:
    data = noise(200 * 32 * BLOCK // 8)
    world = make(Pair(b"", data), segment=BLOCK, compressed=False)
    held = bytearray(data)
    for number in range(0, len(data) // BLOCK, 9):
        held[number * BLOCK + 5] ^= 1
    world.fill(world.target(bytes(held)), [])
    assert len(world.store.asked) <= 26
    assert world.store.given < world.whole.size
