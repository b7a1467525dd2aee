"""A limit on a thin link: never more than it says, never stuck, and over when it is over."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.command import Stop
from pipeline.errors import Interrupted, NetworkError, TrustError
from pipeline.store.base import ChangedError
from pipeline.store.throttled import BURST, Throttle, ThrottledStore
from tests.contract.store_suite import noise, put
from tests.fakes.store import MemoryStore

RATES = st.floats(1000.0, 1e8)
LONGEST_WAIT = 1.0


@dataclass
class Time:
    """A clock that goes on by waiting alone, and *late* by more than that."""

    seconds: float = 0.0
    late: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds + self.late


def throttle(rate: float | None, time: Time) -> Throttle:
    return Throttle(lambda: rate, now=time.now, wait=time.wait)


@given(
    RATES,
    st.lists(
        st.tuples(st.integers(1, 1 << 20), st.floats(0.0, 5.0), st.floats(0.0, 0.3)), max_size=30
    ),
)
def test_over_any_time_no_more_comes_than_the_rate_and_a_burst(
    rate: float, takes: list[tuple[int, float, float]]
) -> None:
    """Whatever is asked for, with pauses between, and with waits that last longer than asked."""
    time = Time()
    tap = throttle(rate, time)
    given_at: list[tuple[float, int]] = []
    for most, idle, late in takes:
        time.seconds += idle
        time.late = late
        size = tap.take(most)
        assert 1 <= size <= most
        given_at.append((time.seconds, size))
    for first, (begin, _) in enumerate(given_at):
        total = 0
        for end, size in given_at[first:]:
            total += size
            assert total <= rate * (end - begin + BURST) * (1 + 1e-9) + 1e-6


@given(RATES, st.integers(1, 1 << 22))
def test_what_is_allowed_is_used(rate: float, size: int) -> None:
    """No slower than the limit either, but for the last part."""
    time = Time()
    throttle(rate, time).pay(size)
    assert time.seconds <= max(0.0, size / rate - BURST) + 0.3
    assert all(each <= LONGEST_WAIT for each in time.waits)


def test_without_a_limit_nothing_waits() -> None:
    time = Time()
    tap = throttle(None, time)
    assert tap.take(1 << 30) == 1 << 30
    assert tap.span() is None
    assert time.waits == []


def test_a_limit_begins_and_ends_with_its_window() -> None:
    """In the middle of an object, and of a wait."""
    time = Time()
    tap = Throttle(
        lambda: 1000.0 if 100 <= time.seconds < 200 else None, now=time.now, wait=time.wait
    )
    tap.pay(10_000_000)
    assert time.seconds == 0
    time.seconds = 101.0
    tap.pay(10_000_000)
    assert 200 <= time.seconds <= 202
    time.seconds = 150.0
    tap = Throttle(lambda: 1000.0 if time.seconds < 151 else 8000.0, now=time.now, wait=time.wait)
    tap.pay(81_000)
    assert 160 <= time.seconds <= 162


def test_a_limit_that_falls_leaves_no_store_of_bytes() -> None:
    time = Time()
    tap = Throttle(lambda: 1e6 if time.seconds < 10 else 1000.0, now=time.now, wait=time.wait)
    time.seconds = 10.0
    assert tap.take(1 << 20) <= 1000


def test_requests_are_for_a_few_seconds() -> None:
    time = Time()
    assert throttle(8000.0, time).span() == 40_000
    assert throttle(1000.0, time).span() == 16 << 10
    assert throttle(500e3, time).span() == 2_500_000


def test_small_things_come_between_large_ones() -> None:
    """Metadata is asked for while a payload has all of the link: it waits for its own bytes."""
    time = Time()
    store = MemoryStore()
    put(store, "objects/ab/x", noise(1_000_000))
    put(store, "small", noise(400))
    reader = ThrottledStore(store, throttle(8000.0, time))
    stream = reader.stream("objects/ab/x")
    for _ in range(50):
        next(stream)
        begin = time.seconds
        assert reader.get("small", limit=400) == noise(400)
        found = reader.get_changed("small", "", limit=400)
        assert found is not None
        assert time.seconds - begin <= 0.5


def test_a_stop_ends_a_wait() -> None:
    stop = Stop()
    waiting = threading.Event()

    def wait(seconds: float) -> None:
        waiting.set()
        stop.wait(60.0)

    store = MemoryStore()
    put(store, "objects/ab/x", noise(100_000))
    reader = ThrottledStore(store, Throttle(lambda: 1000.0, stop=stop, now=lambda: 0.0, wait=wait))
    raised: list[BaseException] = []

    def read() -> None:
        try:
            list(reader.stream("objects/ab/x"))
        except Interrupted as error:
            raised.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert waiting.wait(60)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert len(raised) == 3


def test_several_threads_share_one_limit() -> None:
    time = Time()
    tap = throttle(10_000.0, time)
    store = MemoryStore()
    put(store, "objects/ab/x", noise(50_000))
    mirrors = [ThrottledStore(store, tap) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda mirror=mirror: list(mirror.stream("objects/ab/x")))
        for mirror in mirrors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert time.seconds >= 200_000 / 10_000 - BURST - 1e-6


def test_an_object_that_changes_while_it_is_read_is_read_anew() -> None:
    class Changing(MemoryStore):
        changes = 2

        def stream(self, key: str, *, start: int = 0, size: int | None = None):  # type: ignore[no-untyped-def]
            pieces = super().stream(key, start=start)
            if self.changes:
                self.changes -= 1
                yield b"old"
                raise ChangedError("it changed")
            yield from pieces

    store = Changing()
    put(store, "metadata/timestamp.json", b"new")
    reader = ThrottledStore(store, throttle(None, Time()))
    assert reader.get("metadata/timestamp.json", limit=100) == b"new"
    store.changes = 99
    with pytest.raises(NetworkError, match="changes each time"):
        reader.get("metadata/timestamp.json", limit=100)


def test_of_what_is_too_large_little_is_read() -> None:
    time = Time()
    store = MemoryStore()
    put(store, "large", noise(10_000_000))
    with pytest.raises(TrustError, match="larger than"):
        ThrottledStore(store, throttle(1000.0, time)).get("large", limit=5000)
    assert time.seconds <= 5
