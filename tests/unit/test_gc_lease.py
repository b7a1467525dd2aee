"""How collectors and those who write keep out of each other's way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.channels.lease import LEASES, LIFE, Lease, store_now, wait_for_collectors
from pipeline.command import Stop
from pipeline.errors import Interrupted
from pipeline.models.pointer import PublishedRelease
from tests.fakes.published import (
    keys_of,
    names_of,
    put_release,
)
from tests.fakes.store import MemoryStore


def test_who_writes_waits_for_collectors_that_were_there_and_no_others() -> None:
    store = MemoryStore()
    assert wait_for_collectors(store) is False
    first = Lease(store).__enter__()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            store.create(f"{LEASES}later.json", b"{}")
        if len(slept) == 3:
            first.__exit__(None, None, None)

    assert wait_for_collectors(store, sleep=sleep) is True
    assert len(slept) == 3


def test_a_killed_collector_is_not_waited_for_longer_than_its_lease_lives() -> None:
    clock = [datetime(2026, 3, 1, tzinfo=UTC)]
    store = MemoryStore(now=lambda: clock[0], skew=timedelta(days=-3))
    store.create(f"{LEASES}dead.json", b"{}")

    def sleep(_seconds: float) -> None:
        clock[0] += timedelta(seconds=LIFE / 3)

    begun = clock[0]
    assert wait_for_collectors(store, sleep=sleep) is True
    assert clock[0] - begun == timedelta(seconds=LIFE)
    assert wait_for_collectors(store, sleep=sleep) is False


def test_a_wait_can_be_stopped() -> None:
    store, stop = MemoryStore(), Stop()
    store.create(f"{LEASES}x.json", b"{}")
    stop.set()
    with pytest.raises(Interrupted):
        wait_for_collectors(store, stop, sleep=lambda _: None)


def test_the_time_is_the_stores() -> None:
    moment = datetime(2031, 1, 2, 3, tzinfo=UTC)
    store = MemoryStore(now=lambda: moment)
    assert store_now(store) == moment
    moment += timedelta(hours=1)
    assert store_now(store) == moment


def test_the_helper_that_publishes_makes_whole_releases() -> None:
    """What the tests here stand on."""
    release: PublishedRelease = put_release(MemoryStore(), 3)
    assert len(keys_of(release)) == len(names_of(3)) + 1
