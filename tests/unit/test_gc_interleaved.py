"""Clearing up while others publish and promote: each order in which their steps can fall."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.channels.gc import collect
from pipeline.channels.lease import wait_for_collectors
from pipeline.channels.look import View
from pipeline.errors import BusyError
from pipeline.models.channel import Retention
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.policy.retention import objects_of, references
from pipeline.store.base import ExistsError, MissingError, Store, object_key, release_key
from tests.fakes.published import (
    bodies,
    description,
    held,
    keys_of,
    names_of,
    pointer,
    published,
    put_release,
    view,
)
from tests.fakes.store import Cut, MemoryStore
from tests.fakes.turns import Turns, TurnsStore

RETENTION = Retention(keep=1, grace=3600.0)
OLD = timedelta(hours=2)

Wait = Callable[[Store], bool]


@dataclass
class Scene:
    """A store, one channel that holds release 0, and the time; all actors share them."""

    schedule: list[int]
    wait: bool = True
    store: MemoryStore = field(init=False)
    turns: Turns = field(init=False)
    stable: Pointer = field(init=False)
    now: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    lost: str = ""

    def __post_init__(self) -> None:
        self.store = MemoryStore(now=lambda: self.now)
        self.turns = Turns(self.schedule, self.look_for_losses)
        for number in range(4):
            put_release(self.store, number)
        for sha256, data in bodies(["an orphan", *names_of(5)[:3]]).items():
            self.store.put(object_key(sha256), data, sha256=sha256)
        for key in self.store.snapshot():
            self.store.age(key, OLD)
        self.stable = pointer("stable", published(0))

    def look_for_losses(self) -> None:
        """After every single operation: is all that the channel refers to there?"""
        there = self.store.snapshot().keys()
        for each in references([self.stable], (), RETENTION.keep):
            number = int(each.root_hash, 16)
            gone = {object_key(name) for name in objects_of(published(number))} - there
            if gone and not self.lost:
                self.lost = f"release {number} lacks {sorted(gone)[0]}"

    # What actors do.

    def collector(self, name: str, dies_at: int | None = None) -> Callable[[], None]:
        store = TurnsStore(self.store, self.turns, name, dies_at)

        def look() -> View:
            with self.turns.turn(name):
                return view(self.stable)

        def run() -> None:
            # It may have stood still for too long, and then removes nothing more.
            with contextlib.suppress(BusyError):
                collect(store, look, RETENTION, jobs=1, monotonic=lambda: self.now.timestamp())

        return run

    def promoter(self, name: str, number: int) -> Callable[[], None]:
        """Move a release that is in the store into the channel."""
        store = TurnsStore(self.store, self.turns, name)

        def run() -> None:
            release = published(number)
            try:
                for key in sorted(keys_of(release)):
                    store.touch(key)
            except MissingError:
                return  # it says that the release is not in the store any more
            if self._settled(store, name) and not all(map(store.find, sorted(keys_of(release)))):
                return
            self._commit(name, release)

        return run

    def publisher(self, name: str, number: int) -> Callable[[], None]:
        """Upload what the store lacks of a release, describe it, and move it into the channel."""
        store = TurnsStore(self.store, self.turns, name)

        def upload() -> None:
            for sha256, data in bodies(names_of(number)).items():
                try:
                    store.touch(object_key(sha256))
                except MissingError:
                    store.put(object_key(sha256), data, sha256=sha256)

        def run() -> None:
            release = published(number)
            upload()
            while self._settled(store, name):
                upload()
            key = release_key(release.image, release.version)
            try:
                store.create(key, description(release))
            except ExistsError:
                try:
                    store.touch(key)
                except MissingError:
                    return  # a conflict: publish again
                if self._settled(store, name):
                    return
            self._commit(name, release)

        return run

    def _settled(self, store: Store, name: str) -> bool:
        def sleep(_seconds: float) -> None:
            with self.turns.turn(name):
                # While a collector lives no turn takes longer than its answers may.
                working = any(each.startswith("gc") for each in self.turns.alive)
                self.now += timedelta(seconds=1 if working else 100)

        return wait_for_collectors(store, sleep=sleep) if self.wait else False

    def _commit(self, name: str, release: PublishedRelease) -> None:
        with self.turns.turn(name):
            before = self.stable
            if before.release is None or before.release.version == release.version:
                return
            self.stable = pointer("stable", release, previous=before.release).model_copy(
                update={"history": (held(before.release), *before.history)}
            )


ACTORS = st.fixed_dictionaries(
    {},
    optional={
        "promote 1": st.just(("promoter", 1)),
        "promote 2": st.just(("promoter", 2)),
        "publish 3": st.just(("publisher", 3)),
        "publish 5": st.just(("publisher", 5)),
        "gc too": st.just(("collector", None)),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    actors=ACTORS,
    schedule=st.lists(st.integers(0, 5), max_size=150),
    dies_at=st.none() | st.integers(1, 60),
)
def test_in_whatever_order_steps_fall_nothing_that_a_channel_refers_to_goes(
    actors: dict[str, tuple[str, int | None]], schedule: list[int], dies_at: int | None
) -> None:
    scene = Scene(schedule)
    work = {name: getattr(scene, kind)(name, number) for name, (kind, number) in actors.items()}
    scene.turns.run({"gc": scene.collector("gc", dies_at), **work})
    assert not scene.lost
    died = {"gc": Cut} if dies_at else {}
    assert all(
        isinstance(error, died.get(name, ())) for name, error in scene.turns.failures.items()
    )

    # Once all is quiet, exactly what is needed is left, descriptions included.
    scene.now += timedelta(days=1)
    collect(scene.store, lambda: view(scene.stable), RETENTION)
    wanted = {
        key
        for each in references([scene.stable], (), RETENTION.keep)
        for key in keys_of(published(int(each.root_hash, 16)))
    }
    left = {key for key in scene.store.snapshot() if not key.startswith("gc/")}
    assert left == wanted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedule=st.lists(st.integers(0, 5), max_size=150), dies=st.lists(st.integers(1, 60)))
def test_several_at_once_remove_what_one_does(schedule: list[int], dies: list[int]) -> None:
    scene = Scene(schedule)
    lives = [*dies[:2], None]
    scene.turns.run({f"gc {n}": scene.collector(f"gc {n}", at) for n, at in enumerate(lives)})
    assert not scene.lost
    left = {key for key in scene.store.snapshot() if not key.startswith("gc/")}
    assert left == keys_of(published(0))


@pytest.mark.parametrize("wait", [True, False])
def test_between_the_last_look_and_the_removal_only_waiting_helps(wait: bool) -> None:
    """The gap that a store without conditional removal leaves; and that a test here would see."""
    lost = []
    for turn in range(60):
        scene = Scene([0] * turn + [1] * 30, wait)  # the publisher runs at once after `turn`
        scene.turns.run({"gc": scene.collector("gc"), "publish 5": scene.publisher("publish 5", 5)})
        lost.append(scene.lost)
    assert any(lost) is not wait
