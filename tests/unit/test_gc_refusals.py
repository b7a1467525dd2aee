"""When clearing up does nothing at all, and what a killed one has done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.channels.gc import collect
from pipeline.channels.lease import LEASES, MARKER, Lease, store_now
from pipeline.channels.look import View
from pipeline.command import Stop
from pipeline.errors import BusyError, HostError, Interrupted, NetworkError, TrustError
from pipeline.models.pointer import Pointer
from pipeline.store.base import release_key
from tests.fakes.collecting import RETENTION, WEEK, age, filled, keys, left, run
from tests.fakes.published import (
    pointer,
    published,
    view,
)
from tests.fakes.store import Cut, FaultyStore, MemoryStore

# --- when nothing can go


def test_who_cannot_read_the_channels_removes_nothing() -> None:
    store = filled(1, 2)

    def look() -> View:
        raise TrustError("the channel stable has run out", hint="`recast refresh`")

    with pytest.raises(TrustError, match="has run out"):
        collect(store, look, RETENTION)
    assert left(store) == keys(1, 2)
    assert not [key for key in store.snapshot() if key.startswith(LEASES)]


@pytest.mark.parametrize("reason", ["held", "young", "to go back to"])
@pytest.mark.parametrize("data", [b"", b"{", b'{"image": "edge-web"}'])
def test_a_damaged_description_of_what_stays_stops_everything(reason: str, data: bytes) -> None:
    store = filled(1, 2, 3)
    key = release_key("edge-web", published(2).version)
    store.corrupt(key, data)
    if reason != "young":
        store.age(key, 2 * WEEK)
    pointers = {
        "held": pointer("stable", published(2)),
        "young": pointer("stable", published(3)),
        "to go back to": pointer("stable", published(3), history=[published(2)]),
    }
    before = left(store)
    with pytest.raises(TrustError) as caught:
        run(store, pointers[reason])
    assert key in caught.value.message
    assert "nothing can be removed" in caught.value.message
    assert left(store) == before


def test_a_damaged_description_of_what_goes_is_no_obstacle() -> None:
    store = filled(1, 2)
    key = release_key("edge-web", published(1).version)
    store.corrupt(key, b"{")
    store.age(key, 2 * WEEK)
    run(store, pointer("stable", published(2)))
    assert left(store) == keys(2)


@pytest.mark.parametrize("fault", ["5xx", "timeout", "unreadable"])
def test_a_store_that_cannot_be_read_loses_nothing(fault: Any) -> None:
    inner = filled(1, 2)
    with pytest.raises((NetworkError, HostError)):
        run(FaultyStore(inner, fault, only=("list", "get_changed")), pointer("dev", published(1)))
    assert left(inner) == keys(1, 2)


@pytest.mark.parametrize("fault", ["short body", "wrong bytes"])
def test_bytes_that_arrive_damaged_lose_nothing_that_stays(fault: Any) -> None:
    inner = filled(1, 2)
    stable = pointer("stable", published(2), history=[published(1)])
    with pytest.raises(TrustError, match="nothing can be removed"):
        run(FaultyStore(inner, fault, only=("get",)), stable)
    assert left(inner) == keys(1, 2)


def test_no_bit_of_a_description_can_flip_and_cost_an_object() -> None:
    """Nobody has signed the description of what a channel only can go back to."""
    stable = pointer("stable", published(2), history=[published(1)])
    key = release_key("edge-web", published(1).version)
    good = filled(1, 2)
    data = good.get(key, limit=1 << 20)
    refused = 0
    for bit in range(3, len(data) * 8, 41):
        store = MemoryStore()
        store.restore(good.snapshot())
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        store.corrupt(key, bytes(flipped))
        age(store)
        try:
            run(store, stable)
        except TrustError:
            refused += 1
        assert left(store) == keys(1, 2), f"bit {bit}"
    assert refused > 100


def test_a_store_that_cannot_be_written_says_so() -> None:
    inner = filled(1)
    with pytest.raises(HostError, match="Read-only"):
        run(FaultyStore(inner, "read-only"))
    assert left(inner) == keys(1)


def test_a_stop_is_obeyed() -> None:
    store, stop = filled(1), Stop()
    stop.set()
    with pytest.raises(Interrupted):
        run(store, stop=stop)
    assert left(store) == keys(1)


# --- killed, and several at once


def deaths(make: Callable[[], MemoryStore], *pointers: Pointer) -> int:
    """How many writing operations a whole run has."""
    store = FaultyStore(make())
    collect(store, lambda: view(*pointers), RETENTION, jobs=1)
    return store.writes


@pytest.mark.parametrize("cut", ["before", "after"])
def test_killed_at_any_write_it_has_lost_nothing_and_the_next_goes_on(cut: Any) -> None:
    stable = pointer("stable", published(2), history=[published(1)])

    def make() -> MemoryStore:
        store = filled(0, 1, 2, 3, 5)
        store_now(store)
        return store

    count = deaths(make, stable)
    assert count > 15
    for number in range(1, count + 1):
        inner = make()
        with pytest.raises(Cut):
            collect(
                FaultyStore(inner, cut_at=number, cut=cut), lambda: view(stable), RETENTION, jobs=1
            )
        assert left(inner) >= keys(1, 2)
        collect(inner, lambda: view(stable), RETENTION)
        assert left(inner) == keys(1, 2)
    age(inner, [key for key in inner.snapshot() if key.startswith(LEASES)])
    collect(inner, lambda: view(stable), RETENTION)
    assert set(inner.snapshot()) == keys(1, 2) | {MARKER}, "a dead collector's lease goes"


def test_a_collector_that_stood_still_for_too_long_removes_nothing_more() -> None:
    store = filled(1, 2)
    seconds = iter([0.0, 0.0, 0.0, *[200.0] * 99])
    with pytest.raises(BusyError, match="interrupted for too long") as caught:
        collect(store, lambda: view(), RETENTION, jobs=1, monotonic=lambda: next(seconds))
    assert "recast gc" in caught.value.hint
    assert len(keys(1, 2) - left(store)) == 1


def test_a_lease_is_renewed_while_it_is_needed_and_ends_with_it() -> None:
    store, seconds = MemoryStore(), [0.0]
    with Lease(store, lambda: seconds[0]) as lease:
        first = store.find(lease.key)
        for _ in range(10):
            seconds[0] += 70
            lease.check()
        later = store.find(lease.key)
        assert first
        assert later
        assert later.modified > first.modified
    assert store.find(lease.key) is None


def test_a_lease_that_another_has_cleared_away_is_lost() -> None:
    store, seconds = MemoryStore(), [0.0]
    with Lease(store, lambda: seconds[0]) as lease:
        store.delete(lease.key)
        seconds[0] = 70
        with pytest.raises(BusyError):
            lease.check()
