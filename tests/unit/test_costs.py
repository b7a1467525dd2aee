"""If these fail, somebody promotes a release that a poor link cannot carry, or is kept from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.pointer import Delta, PublishedPart, PublishedRelease, StoredObject
from pipeline.transfer import costs as module
from pipeline.transfer.costs import (
    LINK,
    WAYS,
    Cost,
    Total,
    by_way,
    costs,
    link_seconds,
    link_time,
    total,
)
from tests.fakes.promotions import digest, release
from tests.fakes.store import MemoryStore

MIB = 1 << 20
STORE = MemoryStore()


def stored(size: int) -> StoredObject:
    return StoredObject(digest=digest(size), size=size)


def part(number: int, whole: int, **more: Any) -> PublishedPart:
    return PublishedPart(
        file="f", digest=digest(number), size=9 * whole, stored=stored(whole), **more
    )


def delta(base: PublishedRelease, role: str, size: int, index: int = 0) -> Delta:
    return Delta(
        base=base.identity(role), version=base.version, index=stored(index), stored=stored(size)
    )


OLD = release(1)


def new(root: PublishedPart, uki: PublishedPart, **changes: Any) -> PublishedRelease:
    return release(2, parts={"root": root, "uki": uki, "disk": part(9, 900)}, **changes)


def test_a_machine_with_nothing_downloads_everything() -> None:
    wanted = new(part(3, 500, segments=stored(7), deltas=(delta(OLD, "root", 5),)), part(4, 80))
    found = costs(STORE, wanted, None)
    assert found == {"root": (Cost("whole", 507),), "uki": (Cost("whole", 80),)}
    assert total(found).size == wanted.download_size


def test_a_delta_is_for_exactly_the_part_that_it_starts_from() -> None:
    other = release(7)
    root = part(3, 500, segments=stored(7), deltas=(delta(OLD, "root", 40, index=2),))
    uki = part(4, 80, deltas=(delta(other, "uki", 1),))
    found = costs(STORE, new(root, uki), OLD)
    assert found["root"] == (Cost("delta", 49), Cost("whole", 507)), "its table is needed too"
    assert found["uki"] == (Cost("whole", 80),)
    assert total(found) == Total(129, ("delta", "whole"))
    assert by_way(found) == {"delta": 129, "whole": 587}


def test_a_delta_that_is_larger_than_the_whole_is_not_the_cheapest() -> None:
    root = part(3, 500, deltas=(delta(OLD, "root", 501),))
    assert costs(STORE, new(root, part(4, 80)), OLD)["root"][0] == Cost("whole", 500)


def test_of_two_deltas_from_one_release_the_smaller_counts() -> None:
    root = part(3, 500, deltas=(delta(OLD, "root", 50), delta(OLD, "root", 40)))
    found = costs(STORE, new(root, part(4, 80)), OLD)["root"]
    assert found == (Cost("delta", 40), Cost("whole", 500))


def test_what_is_the_same_costs_nothing() -> None:
    same = new(part(3, 500), OLD.parts["uki"], root_hash=OLD.root_hash)
    found = costs(STORE, same, OLD)
    assert total(found) == Total(0, ())
    assert by_way(found) == {"whole": 0}


def test_chunks_count_once_somebody_can_tell_what_they_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = new(part(3, 500), part(4, 80))
    assert "chunks" not in by_way(costs(STORE, wanted, OLD))
    monkeypatch.setattr(module, "chunk_cost", lambda _store, part, _base: part.size // 90)
    found = costs(STORE, wanted, OLD)
    assert found["root"] == (Cost("chunks", 50), Cost("whole", 500))
    assert total(found) == Total(58, ("chunks",))


SIZES = st.integers(0, 1 << 40)


@given(SIZES, SIZES, st.lists(SIZES, max_size=3))
def test_the_cheapest_way_is_never_dearer_than_the_whole(
    root: int, uki: int, deltas: list[int]
) -> None:
    many = tuple(delta(OLD, "root", size) for size in deltas)
    wanted = new(part(3, root, deltas=many), part(4, uki))
    found = costs(STORE, wanted, OLD)
    sizes = by_way(found)
    assert total(found).size <= wanted.download_size == sizes["whole"]
    assert total(found).size == min(sizes.values())
    for each in found.values():
        assert [cost.size for cost in each] == sorted(cost.size for cost in each)
        assert len({cost.way for cost in each}) == len(each)
        assert {cost.way for cost in each} <= set(WAYS)


TIMES = {
    0: "no time",
    1: "under 1m",
    59 * LINK // 8: "under 1m",
    60 * LINK // 8: "1m",
    60 * LINK // 8 + 1: "2m",
    59 * 60 * LINK // 8: "59m",
    3600 * LINK // 8: "1h00m",
    231 * MIB: "2h07m",
}


@pytest.mark.parametrize("size", TIMES)
def test_times_over_a_poor_link_are_told_in_words(size: int) -> None:
    assert link_time(size) == TIMES[size]


@given(SIZES, SIZES)
def test_more_bytes_never_take_less_time(one: int, two: int) -> None:
    assert link_seconds(min(one, two)) <= link_seconds(max(one, two))
